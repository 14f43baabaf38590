import { useState } from "react";
import { Pressable, ScrollView, StatusBar, StyleSheet, Text, View } from "react-native";
import { initialWindowMetrics, SafeAreaProvider, SafeAreaView } from "react-native-safe-area-context";

import { BenchmarkScreen } from "./screens/BenchmarkScreen";
import { LiveScreen } from "./screens/LiveScreen";
import { ModelScreen } from "./screens/ModelScreen";
import { TeachScreen } from "./screens/TeachScreen";
import { SessionProvider, useSession } from "./session";
import { Busy, ProblemBox, Words } from "./ui/controls";
import { THUMB, useTheme } from "./ui/theme";

const TABS = ["Model", "Teach", "Live", "Benchmark"] as const;
type Tab = (typeof TABS)[number];

export function App() {
  return (
    <SafeAreaProvider initialMetrics={initialWindowMetrics}>
      <SessionProvider>
        <Shell />
      </SessionProvider>
    </SafeAreaProvider>
  );
}

function Shell() {
  const theme = useTheme();
  const { busy, problem, dismiss } = useSession();
  const [tab, setTab] = useState<Tab>("Model");
  return (
    <SafeAreaView style={[styles.fill, { backgroundColor: theme.background }]}>
      <StatusBar barStyle="default" />
      <ScrollView style={styles.fill} contentContainerStyle={styles.page} keyboardShouldPersistTaps="handled">
        {problem && <ProblemBox problem={problem} onDismiss={dismiss} />}
        <Screen tab={tab} />
      </ScrollView>
      {/* Of constant height, so that nothing jumps when work begins and ends. */}
      <View style={styles.status}>{busy && <Busy what={busy} />}</View>
      <View
        accessibilityRole="tablist"
        style={[styles.tabs, { backgroundColor: theme.surface, borderColor: theme.border }]}
      >
        {TABS.map((name) => (
          <TabButton key={name} name={name} selected={name === tab} onPress={() => setTab(name)} />
        ))}
      </View>
    </SafeAreaView>
  );
}

function Screen({ tab }: { tab: Tab }) {
  const { active } = useSession();
  if (tab === "Model") return <ModelScreen />;
  if (!active) return <Words>Open Model first and choose a model.</Words>;
  if (tab === "Teach") return <TeachScreen active={active} />;
  if (tab === "Live") return <LiveScreen active={active} />;
  return <BenchmarkScreen active={active} />;
}

function TabButton({ name, selected, onPress }: { name: Tab; selected: boolean; onPress(): void }) {
  const theme = useTheme();
  return (
    <Pressable
      accessibilityRole="tab"
      accessibilityLabel={name}
      accessibilityState={{ selected }}
      onPress={onPress}
      style={styles.tab}
    >
      <Text style={[styles.tabText, { color: selected ? theme.accent : theme.muted }]}>{name}</Text>
      <View style={[styles.mark, { backgroundColor: selected ? theme.accent : "transparent" }]} />
    </Pressable>
  );
}

const styles = StyleSheet.create({
  fill: { flex: 1 },
  page: { padding: 16, gap: 16, maxWidth: 640, width: "100%", alignSelf: "center" },
  status: { minHeight: 32, paddingHorizontal: 16, justifyContent: "center" },
  tabs: { flexDirection: "row", borderTopWidth: 1 },
  tab: { flex: 1, minHeight: THUMB, alignItems: "center", justifyContent: "center", gap: 4 },
  tabText: { fontSize: 14, fontWeight: "600" },
  mark: { height: 3, width: 28, borderRadius: 2 },
});
