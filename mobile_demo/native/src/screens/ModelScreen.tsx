import type { Manifest } from "@lowdino/core";
import * as DocumentPicker from "expo-document-picker";

import { artifactName } from "../model/benchmark";
import { hasSample, install, installSample } from "../model/library";
import { useSession } from "../session";
import { Button, Card, Row, Words } from "../ui/controls";

export function ModelScreen() {
  const { models, active, busy, add, choose, remove, report } = useSession();
  const pick = async () => {
    const result = await DocumentPicker.getDocumentAsync({ multiple: true, copyToCacheDirectory: true });
    if (!result.canceled) await add(() => install(result.assets));
  };
  return (
    <>
      <Words size="title">Model</Words>
      <Words muted>
        Choose a .pte and its artifact.json together, as `lowdino export` writes them. The file is checked against its
        card; nothing is sent anywhere.
      </Words>
      <Button kind="primary" title="Choose files" disabled={busy !== null} onPress={() => void pick().catch(report)} />
      {hasSample && (
        <Button title="Use the model in this app" disabled={busy !== null} onPress={() => void add(installSample)} />
      )}
      {models.map((manifest) => (
        <ModelCard
          key={manifest.sha256}
          manifest={manifest}
          inUse={active?.manifest.sha256 === manifest.sha256}
          disabled={busy !== null}
          onChoose={() => void choose(manifest)}
          onRemove={() => void remove(manifest)}
        />
      ))}
    </>
  );
}

interface ModelCardProps {
  manifest: Manifest;
  inUse: boolean;
  disabled: boolean;
  onChoose(): void;
  onRemove(): void;
}

function ModelCard({ manifest, inUse, disabled, onChoose, onRemove }: ModelCardProps) {
  const { bytes, embedDim, preprocess, sha256, student } = manifest;
  const name = artifactName(manifest);
  return (
    <Card>
      <Words style={{ fontWeight: "600" }}>{student ? `${student}, ${name}` : name}</Words>
      <Words size="small" muted>
        {(bytes / 1e6).toFixed(1)} MB · {preprocess.imageSize} pixels · {embedDim} numbers · {sha256.slice(0, 8)}
      </Words>
      <Row>
        {inUse ? (
          <Words>In use</Words>
        ) : (
          <Button title="Use" label={`Use ${name}`} disabled={disabled} onPress={onChoose} />
        )}
        <Button title="Remove" label={`Remove ${name}`} disabled={disabled} onPress={onRemove} />
      </Row>
    </Card>
  );
}
