import type { TaughtClass } from "@lowdino/core";
import * as DocumentPicker from "expo-document-picker";
import { shareAsync } from "expo-sharing";
import { useState } from "react";
import { Pressable, StyleSheet, TextInput, View } from "react-native";

import { useFrames } from "../camera/useFrames";
import { useSession, type Active } from "../session";
import { fileToShare, importStore } from "../store/persist";
import { CameraPane } from "../ui/CameraPane";
import { Button, Card, Row, Words } from "../ui/controls";
import { Thumbnail } from "../ui/Thumbnail";
import { THUMB, useTheme } from "../ui/theme";

export function TeachScreen({ active: { store, manifest } }: { active: Active }) {
  const { busy, teach, addExample, attempt, replaceStore, report } = useSession();
  const frames = useFrames();
  const [editing, setEditing] = useState(false);
  const share = () =>
    attempt("Exporting", async () => {
      await shareAsync(fileToShare("lowdino-classes.json", store), {
        mimeType: "application/json",
        UTI: "public.json",
      });
    });
  const take = async () => {
    const result = await DocumentPicker.getDocumentAsync({ type: ["application/json"], copyToCacheDirectory: true });
    if (!result.canceled) await replaceStore(await importStore(result.assets[0]!.uri, manifest));
  };
  return (
    <>
      <Words size="title">Teach</Words>
      <CameraPane frames={frames} onError={report} />
      <Words muted>Point the camera at a thing and tap its class. A few examples of each are enough.</Words>
      <View style={styles.tiles}>
        {store.classes.map((c) => (
          <Tile key={c.id} taught={c} disabled={busy !== null} onPress={() => void addExample(c.id, frames.grab)} />
        ))}
      </View>
      <NewClass disabled={busy !== null} onAdd={(name) => teach((s) => void s.addClass(name))} />
      <Row>
        <Button
          title={editing ? "Done" : "Edit"}
          disabled={store.classes.length === 0}
          onPress={() => setEditing(!editing)}
        />
        <Button
          title="Export"
          label="Export the classes"
          disabled={busy !== null || store.classes.length === 0}
          onPress={() => void share()}
        />
        <Button
          title="Import"
          label="Import classes"
          disabled={busy !== null}
          onPress={() => void take().catch(report)}
        />
      </Row>
      {editing && store.classes.map((c) => <EditClass key={c.id} taught={c} disabled={busy !== null} />)}
    </>
  );
}

function Tile({
  taught: { name, examples },
  disabled,
  onPress,
}: {
  taught: TaughtClass;
  disabled: boolean;
  onPress(): void;
}) {
  const theme = useTheme();
  const n = examples.length;
  return (
    <Pressable
      accessibilityRole="button"
      accessibilityLabel={`Add an example of ${name}, ${n} so far`}
      accessibilityState={{ disabled }}
      disabled={disabled}
      onPress={onPress}
      style={({ pressed }) => [
        styles.tile,
        { backgroundColor: theme.surface, borderColor: pressed ? theme.accent : theme.border },
      ]}
    >
      <Thumbnail uri={examples[n - 1]?.thumbnail} label={n ? `last example of ${name}` : "no example yet"} />
      <View style={styles.tileText}>
        <Words style={{ fontWeight: "600" }}>{name}</Words>
        <Words size="small" muted>
          {n} {n === 1 ? "example" : "examples"}
        </Words>
      </View>
    </Pressable>
  );
}

function NewClass({ disabled, onAdd }: { disabled: boolean; onAdd(name: string): Promise<boolean> }) {
  const [name, setName] = useState("");
  const add = async () => {
    if (await onAdd(name)) setName("");
  };
  return (
    <Row>
      <NameInput value={name} label="Name of a new class" onChange={setName} onSubmit={() => void add()} />
      <Button kind="primary" title="Add class" disabled={disabled || name.trim() === ""} onPress={() => void add()} />
    </Row>
  );
}

function EditClass({ taught, disabled }: { taught: TaughtClass; disabled: boolean }) {
  const { teach } = useSession();
  const [name, setName] = useState(taught.name);
  return (
    <Card>
      <NameInput value={name} label={`New name of ${taught.name}`} onChange={setName} onSubmit={() => undefined} />
      <Row>
        <Button
          title="Rename"
          label={`Rename ${taught.name}`}
          disabled={disabled || name.trim() === taught.name || name.trim() === ""}
          onPress={() => void teach((s) => s.renameClass(taught.id, name))}
        />
        <Button
          kind="danger"
          title="Delete"
          label={`Delete ${taught.name}`}
          disabled={disabled}
          onPress={() => void teach((s) => s.removeClass(taught.id))}
        />
      </Row>
      <Row>
        {taught.examples.map((example, i) => (
          <Pressable
            key={example.id}
            accessibilityRole="button"
            accessibilityLabel={`Remove example ${i + 1} of ${taught.name}`}
            disabled={disabled}
            onPress={() => void teach((s) => s.removeExample(taught.id, example.id))}
          >
            <Thumbnail uri={example.thumbnail} label={`example ${i + 1}`} size={THUMB} />
          </Pressable>
        ))}
      </Row>
      {taught.examples.length > 0 && (
        <Words size="small" muted>
          Tap an example to remove it.
        </Words>
      )}
    </Card>
  );
}

function NameInput({
  value,
  label,
  onChange,
  onSubmit,
}: {
  value: string;
  label: string;
  onChange(text: string): void;
  onSubmit(): void;
}) {
  const theme = useTheme();
  return (
    <TextInput
      accessibilityLabel={label}
      placeholder={label}
      placeholderTextColor={theme.muted}
      value={value}
      maxLength={60}
      onChangeText={onChange}
      onSubmitEditing={onSubmit}
      returnKeyType="done"
      style={[styles.input, { color: theme.text, borderColor: theme.border, backgroundColor: theme.surface }]}
    />
  );
}

const styles = StyleSheet.create({
  tiles: { flexDirection: "row", flexWrap: "wrap", gap: 10 },
  tile: {
    flexBasis: "47%",
    flexGrow: 1,
    minHeight: 72,
    borderWidth: 2,
    borderRadius: 16,
    padding: 10,
    gap: 10,
    flexDirection: "row",
    alignItems: "center",
  },
  tileText: { flexShrink: 1 },
  input: {
    minHeight: THUMB,
    flexGrow: 2,
    flexBasis: 160,
    borderWidth: 1,
    borderRadius: 14,
    paddingHorizontal: 14,
    fontSize: 17,
  },
});
