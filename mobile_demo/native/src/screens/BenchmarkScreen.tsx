import { shareAsync } from "expo-sharing";
import { useState } from "react";
import { StyleSheet, View } from "react-native";

import { benchmark, RUNS, type BenchmarkResult } from "../model/benchmark";
import { deviceInfo } from "../model/device";
import { useSession, type Active } from "../session";
import { fileToShare } from "../store/persist";
import { Bar, Button, Card, Row, Words } from "../ui/controls";
import { useTheme } from "../ui/theme";

export function BenchmarkScreen({ active: { manifest, embedder } }: { active: Active }) {
  const { busy, attempt } = useSession();
  const [done, setDone] = useState(0);
  const [result, setResult] = useState<BenchmarkResult | null>(null);
  const run = () =>
    attempt("Measuring", async () => {
      setResult(null);
      setDone(0);
      setResult(await benchmark(embedder, manifest, deviceInfo(), { progress: setDone }));
    });
  const share = (value: BenchmarkResult) =>
    attempt("Sharing", async () => {
      const uri = fileToShare(`lowdino-${value.artifact}.json`, value);
      await shareAsync(uri, { mimeType: "application/json", UTI: "public.json" });
    });
  return (
    <>
      <Words size="title">Benchmark</Words>
      <Words muted>
        Warms up until the times are stable, then times {RUNS} runs of the network alone. Leave the phone alone
        meanwhile.
      </Words>
      <Button kind="primary" title="Measure" disabled={busy !== null} onPress={() => void run()} />
      <Bar value={result ? 1 : done} label="Progress" />
      {result && <ResultView result={result} />}
      {result && <Button title="Share the result" disabled={busy !== null} onPress={() => void share(result)} />}
    </>
  );
}

function ResultView({ result }: { result: BenchmarkResult }) {
  const { latency_ms: l, load_ms, delegates, device } = result;
  return (
    <Card>
      <Row>
        <Figure value={l.p50} name="p50" />
        <Figure value={l.p90} name="p90" />
        <Figure value={l.min} name="fastest" />
      </Row>
      <Chart samples={l.samples} top={l.samples.reduce((a, b) => Math.max(a, b), 0)} />
      <Words>
        Noise {percent(l.noise)}:{" "}
        {l.noise > 0.1 ? "too much to compare closely; measure again on a quiet phone" : "little"}.
      </Words>
      {l.throttled && <Words>Slower by {percent(l.rise)} at the end than at the start: the phone throttles.</Words>}
      <Words size="small" muted>
        {l.warmup} warm-up runs · loaded in {load_ms.toFixed(0)} ms · {delegates.join(", ") || "no delegate"} ·{" "}
        {device.model ?? device.platform}
      </Words>
    </Card>
  );
}

function Figure({ value, name }: { value: number; name: string }) {
  return (
    <View accessible accessibilityLabel={`${name}: ${value.toFixed(1)} milliseconds`} style={styles.figure}>
      <Words size="figure">{value.toFixed(1)}</Words>
      <Words size="small" muted>
        {name}, ms
      </Words>
    </View>
  );
}

/** Every sample in the order it was taken: an outlier and a slow end are seen at once. */
function Chart({ samples, top }: { samples: readonly number[]; top: number }) {
  const theme = useTheme();
  return (
    <View
      accessible
      accessibilityRole="image"
      accessibilityLabel={`Chart of ${samples.length} runs`}
      style={styles.chart}
    >
      {samples.map((ms, i) => (
        <View
          key={i}
          style={{ flex: 1, height: `${top > 0 ? (100 * ms) / top : 0}%`, backgroundColor: theme.accent }}
        />
      ))}
    </View>
  );
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

const styles = StyleSheet.create({
  figure: { flexGrow: 1 },
  chart: { height: 96, flexDirection: "row", alignItems: "flex-end", gap: 1 },
});
