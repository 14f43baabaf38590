// Frame after frame, one at a time: the next is taken when the last is answered, and never faster than a phone's
// battery likes.

const LEAST_MS = 80;

export class Loop {
  private running = 0;

  /** @param frame one turn; a rejection ends the loop after `failed` was told. */
  constructor(
    private readonly frame: () => Promise<void>,
    private readonly failed: (e: unknown) => void,
  ) {}

  start(): void {
    void this.run(++this.running);
  }

  stop(): void {
    this.running++;
  }

  private async run(turn: number): Promise<void> {
    while (turn === this.running) {
      const begin = performance.now();
      try {
        await this.frame();
      } catch (e) {
        if (turn === this.running) this.failed(e);
        return;
      }
      const left = LEAST_MS - (performance.now() - begin);
      await new Promise((done) => setTimeout(done, Math.max(0, left)));
    }
  }
}
