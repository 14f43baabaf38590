import { useCallback, useState } from "react";
import { StyleSheet, View } from "react-native";

import { useFrames } from "../camera/useFrames";
import { useSession, type Active } from "../session";
import { missing } from "../store/recognise";
import { CameraPane } from "../ui/CameraPane";
import { Bar, Button, Card, Row, Words } from "../ui/controls";
import { Thumbnail } from "../ui/Thumbnail";
import { useLive, type Sight } from "./useLive";

export function LiveScreen({ active }: { active: Active }) {
  const { report } = useSession();
  const frames = useFrames();
  const [on, setOn] = useState(false);
  const stop = useCallback(
    (error: unknown) => {
      setOn(false);
      report(error);
    },
    [report],
  );
  const sight = useLive(active, on, frames.grab, stop);
  const lack = missing(active.store);
  return (
    <>
      <Words size="title">Live</Words>
      <CameraPane frames={frames} onError={report} />
      {lack ? (
        <Words>{lack}</Words>
      ) : (
        <Button kind="primary" title={on ? "Pause" : "Recognise"} onPress={() => setOn(!on)} />
      )}
      <Card>
        <View style={styles.answer}>
          {sight ? <AnswerView sight={sight} /> : <Words muted>{on ? "Looking …" : "Nothing recognised yet."}</Words>}
        </View>
      </Card>
    </>
  );
}

function AnswerView({ sight: { answer, prepareMs, embedMs } }: { sight: Sight }) {
  const percent = Math.round(100 * answer.confidence);
  return (
    <>
      <View accessible accessibilityLiveRegion="polite" accessibilityLabel={`${answer.name}, ${percent} percent`}>
        <Words size="figure">{answer.name}</Words>
        <Words muted>{percent} % of the votes</Words>
      </View>
      <Bar value={answer.confidence} label="Confidence" />
      <Words size="small" muted>
        Nearest examples
      </Words>
      <Row>
        {answer.neighbours.map(({ id, name, similarity, thumbnail }) => (
          <View key={id} style={styles.neighbour}>
            <Thumbnail uri={thumbnail} label={`${name}, similarity ${similarity.toFixed(2)}`} />
            <Words size="small" muted>
              {similarity.toFixed(2)}
            </Words>
          </View>
        ))}
      </Row>
      <Words size="small" muted>
        picture {prepareMs.toFixed(0)} ms · network {embedMs.toFixed(0)} ms
      </Words>
    </>
  );
}

const styles = StyleSheet.create({
  answer: { minHeight: 210, gap: 8 }, // as high empty as full: no jump
  neighbour: { alignItems: "center", gap: 2 },
});
