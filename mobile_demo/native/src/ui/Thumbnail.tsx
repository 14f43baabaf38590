import { Image, View } from "react-native";

import { useTheme } from "./theme";

/** An example as the network saw it. Without a picture, an empty tile of the same size. */
export function Thumbnail({ uri, label, size = 48 }: { uri: string | undefined; label: string; size?: number }) {
  const theme = useTheme();
  const shape = { width: size, height: size, borderRadius: 8, backgroundColor: theme.border };
  if (!uri) return <View accessible accessibilityLabel={label} style={shape} />;
  return <Image accessible accessibilityRole="image" accessibilityLabel={label} source={{ uri }} style={shape} />;
}
