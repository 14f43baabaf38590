// From votes to what the screen says: steady over a few frames, and honest when nothing taught is near.
import type { Bank, Vote } from "@lowdino/core";
import { normalise } from "@lowdino/core";

export interface Verdict {
  /** Index of the class, or null: not sure. */
  label: number | null;
  /** The smoothed share of the votes of the leading class. */
  confidence: number;
  leading: number;
  /** Why it is not sure. */
  doubt: "unlike" | "torn" | null;
}

/** Weight of the newest frame. At about 12 frames a second a new thing wins after a third of a second. */
const NEWEST = 0.35;
/** Below this share two classes are too close to name one. */
const TORN = 0.6;
const FLOOR_MIN = 0.25;
const FLOOR_MAX = 0.9;

/**
 * The least similarity that counts as "like an example": the mean similarity between examples of different classes.
 * What is no nearer to its best example than a mug is to a plant is neither of them. Networks differ widely in how
 * alike they find everything, so this is measured from the taught examples and not a fixed number.
 */
export function floorOf(bank: Bank): number {
  const { labels, dim } = bank;
  const rows = Array.from(labels, (_, i) => normalise(bank.data.subarray(i * dim, (i + 1) * dim)));
  let sum = 0;
  let pairs = 0;
  for (let i = 0; i < rows.length; i++)
    for (let j = i + 1; j < rows.length; j++) {
      if (labels[i] === labels[j]) continue;
      sum += dot(rows[i], rows[j]);
      pairs++;
    }
  return pairs === 0 ? FLOOR_MIN : Math.min(FLOOR_MAX, Math.max(FLOOR_MIN, sum / pairs));
}

function dot(a: Float32Array | undefined, b: Float32Array | undefined): number {
  let sum = 0;
  a?.forEach((x, i) => (sum += x * (b?.[i] ?? 0)));
  return sum;
}

/** The label on the screen: an exponential mean of the votes, so that single frames do not make it flicker. */
export class Judge {
  private shares: Float64Array | null = null;
  private similarity = 0;

  constructor(private readonly floor: number) {}

  take(vote: Vote): Verdict {
    const nearest = vote.neighbours[0]?.similarity ?? 0;
    if (this.shares === null || this.shares.length !== vote.shares.length) {
      this.shares = Float64Array.from(vote.shares);
      this.similarity = nearest;
    } else {
      this.shares = this.shares.map((old, i) => old + NEWEST * ((vote.shares[i] ?? 0) - old));
      this.similarity += NEWEST * (nearest - this.similarity);
    }
    const leading = this.shares.indexOf(Math.max(...this.shares));
    const confidence = this.shares[leading] ?? 0;
    const doubt = this.similarity < this.floor ? "unlike" : confidence < TORN ? "torn" : null;
    return { label: doubt === null ? leading : null, confidence, leading, doubt };
  }

  /** Forgets the frames before: for a photo, which stands alone. */
  reset(): void {
    this.shares = null;
  }
}
