const fs = require("fs");
const path = require("path");
const { getDefaultConfig } = require("expo/metro-config");

const core = path.resolve(__dirname, "../core/src");
const modules = path.resolve(__dirname, "node_modules");
const bundled = path.resolve(__dirname, "assets/sample/index.js"); // made by `npm run sample`, not in git
const config = getDefaultConfig(__dirname);

config.watchFolders = [core];
config.resolver.assetExts.push("pte");
config.resolver.nodeModulesPaths = [modules];
config.resolver.extraNodeModules = {
  "@lowdino/core": core,
  "@lowdino/sample": fs.existsSync(bundled) ? path.dirname(bundled) : path.resolve(__dirname, "src/model/no-sample"),
};

module.exports = config;
