/** Stand-in for react-native-blob-util, with which react-native-executorch would download models. This app must not. */
export default {
  fs: { dirs: { DocumentDir: "/none", CacheDir: "/none" } }, // read when the package is imported
  config(): never {
    throw new Error("the app downloads");
  },
};
