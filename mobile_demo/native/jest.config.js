/** @type {import("jest").Config} */
module.exports = {
  preset: "jest-expo",
  testTimeout: 60_000,
  testMatch: ["<rootDir>/tests/**/*.test.ts?(x)"],
  modulePaths: ["<rootDir>/node_modules"], // core lies outside of this folder
  setupFiles: ["<rootDir>/tests/fakes/executorch.ts"],
  setupFilesAfterEnv: ["<rootDir>/tests/setup.ts"],
  moduleNameMapper: {
    "^@lowdino/core$": "<rootDir>/../core/src/index.ts",
    "^@lowdino/core/(.*)$": "<rootDir>/../core/src/$1",
    "^@lowdino/sample$": "<rootDir>/src/model/no-sample",
    // No phone here: these modules are native code. Each stand-in says what it does for real and what not.
    "^react-native-blob-util$": "<rootDir>/tests/fakes/downloader.ts",
    "^react-native-vision-camera$": "<rootDir>/tests/fakes/camera.tsx",
    "^react-native-worklets$": "<rootDir>/tests/fakes/worklets.ts",
    "^expo-file-system$": "<rootDir>/tests/fakes/files.ts",
    "^expo-document-picker$": "<rootDir>/tests/fakes/picker.ts",
    "^expo-sharing$": "<rootDir>/tests/fakes/sharing.ts",
    "^expo-crypto$": "<rootDir>/tests/fakes/crypto.ts",
  },
};
