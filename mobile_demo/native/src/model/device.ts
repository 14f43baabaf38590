import type { DeviceInfo } from "@lowdino/core";
import { Platform } from "react-native";

/** What the system tells without asking for anything: no identifier of the phone or of its owner. */
export function deviceInfo(): DeviceInfo {
  const { constants } = Platform;
  const model = "Model" in constants ? `${constants.Manufacturer} ${constants.Model}` : null;
  const version =
    "osVersion" in constants ? constants.osVersion : "Release" in constants ? constants.Release : Platform.Version;
  return {
    user_agent: "lowdino-native 0.1.0",
    platform: `${Platform.OS} ${version}`,
    model,
    cores: null,
    memory_gb: null,
    gpu: null,
  };
}
