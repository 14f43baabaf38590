import { useColorScheme } from "react-native";

export interface Theme {
  background: string;
  surface: string;
  border: string;
  text: string;
  muted: string;
  accent: string; // fills buttons and bars
  onAccent: string;
  danger: string;
  onDanger: string;
}

export const light: Theme = {
  background: "#f6f7f9",
  surface: "#ffffff",
  border: "#c9d0da",
  text: "#14181f",
  muted: "#4a5463",
  accent: "#0b5cad",
  onAccent: "#ffffff",
  danger: "#a3261b",
  onDanger: "#ffffff",
};

export const dark: Theme = {
  background: "#0e1116",
  surface: "#181d25",
  border: "#39424f",
  text: "#eef1f5",
  muted: "#aab4c2",
  accent: "#7db8f5",
  onAccent: "#08121d",
  danger: "#ff9d92",
  onDanger: "#2a0603",
};

export const THUMB = 52; // points: nothing to be tapped is smaller

export function useTheme(): Theme {
  return useColorScheme() === "dark" ? dark : light;
}
