import type { ReactNode } from "react";
import { ActivityIndicator, Pressable, StyleSheet, Text, View, type TextStyle } from "react-native";

import type { Problem } from "../problem";
import { THUMB, useTheme } from "./theme";

type Kind = "primary" | "quiet" | "danger";

interface ButtonProps {
  title: string;
  label?: string; // what a screen reader says, where the title alone is not enough
  kind?: Kind;
  disabled?: boolean;
  onPress(): void;
}

export function Button({ title, label, kind = "quiet", disabled = false, onPress }: ButtonProps) {
  const theme = useTheme();
  const fill = { primary: theme.accent, danger: theme.danger, quiet: theme.surface }[kind];
  const ink = { primary: theme.onAccent, danger: theme.onDanger, quiet: theme.text }[kind];
  return (
    <Pressable
      accessibilityRole="button"
      accessibilityLabel={label ?? title}
      accessibilityState={{ disabled }}
      disabled={disabled}
      onPress={onPress}
      style={({ pressed }) => [
        styles.button,
        {
          backgroundColor: fill,
          borderColor: kind === "quiet" ? theme.border : fill,
          opacity: disabled ? 0.45 : pressed ? 0.75 : 1,
        },
      ]}
    >
      <Text style={[styles.buttonText, { color: ink }]}>{title}</Text>
    </Pressable>
  );
}

export function Row({ children }: { children: ReactNode }) {
  return <View style={styles.row}>{children}</View>;
}

export function Card({ children }: { children: ReactNode }) {
  const theme = useTheme();
  return <View style={[styles.card, { backgroundColor: theme.surface, borderColor: theme.border }]}>{children}</View>;
}

type Size = "title" | "body" | "small" | "figure";

export function Words({
  children,
  size = "body",
  muted = false,
  style,
}: {
  children: ReactNode;
  size?: Size;
  muted?: boolean;
  style?: TextStyle;
}) {
  const theme = useTheme();
  return (
    <Text
      accessibilityRole={size === "title" ? "header" : undefined}
      style={[styles[size], { color: muted ? theme.muted : theme.text }, style]}
    >
      {children}
    </Text>
  );
}

/** A share of 1, as a bar. */
export function Bar({ value, label }: { value: number; label: string }) {
  const theme = useTheme();
  const percent = Math.round(100 * value);
  return (
    <View
      accessible
      accessibilityRole="progressbar"
      accessibilityLabel={label}
      accessibilityValue={{ min: 0, max: 100, now: percent }}
      style={[styles.bar, { backgroundColor: theme.border }]}
    >
      <View style={{ width: `${percent}%`, height: "100%", backgroundColor: theme.accent }} />
    </View>
  );
}

export function ProblemBox({ problem, onDismiss }: { problem: Problem; onDismiss(): void }) {
  const theme = useTheme();
  return (
    <View style={[styles.card, { backgroundColor: theme.surface, borderColor: theme.danger }]}>
      <View accessible accessibilityRole="alert" accessibilityLiveRegion="assertive" style={styles.message}>
        <Words style={{ color: theme.danger, fontWeight: "600" }}>{problem.what}</Words>
        <Words muted>{problem.how}</Words>
      </View>
      <Button title="Close" label="Close the message" onPress={onDismiss} />
    </View>
  );
}

export function Busy({ what }: { what: string }) {
  const theme = useTheme();
  return (
    <View style={styles.row} accessibilityLiveRegion="polite">
      <ActivityIndicator color={theme.accent} />
      <Words muted>{what} …</Words>
    </View>
  );
}

const styles = StyleSheet.create({
  button: {
    minHeight: THUMB,
    minWidth: THUMB,
    paddingHorizontal: 18,
    borderRadius: 14,
    borderWidth: 1,
    alignItems: "center",
    justifyContent: "center",
    flexGrow: 1,
  },
  buttonText: { fontSize: 17, fontWeight: "600" },
  row: { flexDirection: "row", flexWrap: "wrap", gap: 10, alignItems: "center" },
  card: { borderWidth: 1, borderRadius: 16, padding: 14, gap: 8 },
  message: { gap: 4 },
  bar: { height: 12, borderRadius: 6, overflow: "hidden" },
  title: { fontSize: 24, fontWeight: "700" },
  body: { fontSize: 16, lineHeight: 22 },
  small: { fontSize: 14, lineHeight: 19 },
  figure: { fontSize: 34, fontWeight: "700", fontVariant: ["tabular-nums"] },
});
