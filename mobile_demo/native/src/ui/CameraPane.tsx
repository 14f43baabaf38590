/** The camera's picture, square as the network sees it; or what to do where there is none. */
import { useEffect, useState } from "react";
import { AppState, Linking, StyleSheet, View } from "react-native";
import { Camera, useCameraDevice, useCameraPermission } from "react-native-vision-camera";

import type { Frames } from "../camera/useFrames";
import { Button, Card, Words } from "./controls";
import { useTheme } from "./theme";

export function CameraPane({ frames, onError }: { frames: Frames; onError(error: unknown): void }) {
  const theme = useTheme();
  const permission = useCameraPermission();
  const [side, setSide] = useState<"back" | "front">("back");
  const device = useCameraDevice(side);
  const inFront = useInFront();
  const other = side === "back" ? "front" : "back";

  if (!permission.hasPermission) return <AskForCamera {...permission} onError={onError} />;
  return (
    <View style={styles.pane}>
      <View
        style={[styles.square, { backgroundColor: theme.border }]}
        accessible
        accessibilityRole="image"
        accessibilityLabel="What the camera sees"
      >
        {device ? (
          <Camera
            style={StyleSheet.absoluteFill}
            device={device}
            outputs={[frames.output]}
            isActive={inFront}
            resizeMode="cover"
            onError={onError}
          />
        ) : (
          <Words>This phone has no {side} camera.</Words>
        )}
      </View>
      <Button title={`Use the ${other} camera`} onPress={() => setSide(other)} />
    </View>
  );
}

interface Asking {
  canRequestPermission: boolean;
  requestPermission(): Promise<boolean>;
  onError(error: unknown): void;
}

function AskForCamera({ canRequestPermission, requestPermission, onError }: Asking) {
  return (
    <Card>
      <Words>The camera shows things to the model. Pictures stay on this phone.</Words>
      {canRequestPermission ? (
        <Button kind="primary" title="Allow the camera" onPress={() => void requestPermission().catch(onError)} />
      ) : (
        <Button
          kind="primary"
          title="Open settings to allow the camera"
          onPress={() => void Linking.openSettings().catch(onError)}
        />
      )}
    </Card>
  );
}

/** False while the app is in the background: the camera belongs to others then. */
function useInFront(): boolean {
  const [state, setState] = useState(AppState.currentState);
  useEffect(() => {
    const subscription = AppState.addEventListener("change", setState);
    return () => subscription.remove();
  }, []);
  return state !== "background";
}

const styles = StyleSheet.create({
  pane: { gap: 10 },
  square: {
    width: "100%",
    maxWidth: 420,
    alignSelf: "center",
    aspectRatio: 1,
    borderRadius: 20,
    overflow: "hidden",
    alignItems: "center",
    justifyContent: "center",
  },
});
