/** Made by `npm run sample`; src/model/no-sample otherwise. metro.config.js chooses. */
declare module "@lowdino/sample" {
  export const sample: { card: unknown; file: number } | null;
}
