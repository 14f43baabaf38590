/** From an embedding to what is shown: core's vote, with names and thumbnails put to it. */
import { classify, DemoError, type ClassStore, type Example } from "@lowdino/core";

export interface Answer {
  name: string;
  confidence: number;
  neighbours: { name: string; similarity: number; thumbnail: string | undefined; id: string }[];
}

const SHOWN = 5;

/** Why nothing can be recognised yet, or null. */
export function missing(store: ClassStore): string | null {
  const taught = store.classes.filter((c) => c.examples.length > 0);
  if (taught.length >= 2) return null;
  return taught.length === 0 ? "Teach two things first." : `Only “${taught[0]!.name}” is taught. Teach a second thing.`;
}

export function recognise(store: ClassStore, embedding: Float32Array): Answer {
  const lack = missing(store);
  if (lack) throw new DemoError(lack, "open Teach");
  const examples: { name: string; example: Example }[] = store.classes.flatMap(
    ({ name, examples }) => examples.map((example) => ({ name, example })), // the order of store.bank()
  );
  const vote = classify(store.bank(), embedding, { classes: store.classes.length });
  return {
    name: store.classes[vote.label]!.name,
    confidence: vote.confidence,
    neighbours: vote.neighbours.slice(0, SHOWN).map(({ index, similarity }) => {
      const { name, example } = examples[index]!;
      return { name, similarity, thumbnail: example.thumbnail, id: example.id };
    }),
  };
}
