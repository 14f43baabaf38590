/** What "@lowdino/sample" is until `npm run sample` puts a model into assets/sample. */
export const sample = null;
