// The camera, and why there is none. Frames are taken at the camera's own size: only core.resize may resample.

export type CameraState = "off" | "starting" | "on" | "refused" | "missing" | "insecure" | "busy";

const WANTED = { width: { ideal: 640 }, height: { ideal: 480 } };

export const WHY: Record<Exclude<CameraState, "starting" | "on">, string> = {
  off: "Point the camera at a thing, name it, tap its tile. Two things or more, and it tells them apart.",
  refused: "The camera is not allowed here. Allow it in the browser's site settings, or take photos instead.",
  missing: "This device shows no camera to the browser. Take or choose photos instead.",
  insecure: "Browsers open the camera only on https or localhost. Take photos instead: that always works.",
  busy: "The camera did not start; another app may hold it. Try again, or take photos instead.",
};

export class Camera {
  readonly video: HTMLVideoElement;
  state: CameraState = "off";
  facing: "environment" | "user" = "environment";
  private stream: MediaStream | null = null;
  private readonly canvas = document.createElement("canvas");
  private readonly context = this.canvas.getContext("2d", { willReadFrequently: true });
  /** Raised by every start and stop: a stream that arrives for an earlier one is closed again. */
  private turn = 0;

  constructor(private readonly changed: () => void) {
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.setAttribute("playsinline", "");
    this.video.setAttribute("aria-label", "camera picture");
    this.video.setAttribute("role", "img");
  }

  async start(): Promise<void> {
    if (this.state === "on" || this.state === "starting") return;
    if (!window.isSecureContext) return this.become("insecure");
    if (navigator.mediaDevices?.getUserMedia === undefined) return this.become("missing");
    const turn = ++this.turn;
    this.become("starting");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { ...WANTED, facingMode: { ideal: this.facing } },
      });
      if (turn !== this.turn) return close(stream);
      this.stream = stream;
      stream.getVideoTracks()[0]?.addEventListener("ended", () => this.stop());
      this.video.srcObject = stream;
      await this.video.play();
      await firstFrame(this.video);
      if (turn === this.turn) this.become("on");
    } catch (e) {
      if (turn !== this.turn) return;
      this.release();
      this.become(reason(e));
    }
  }

  stop(): void {
    this.turn++;
    this.release();
    if (this.state === "on" || this.state === "starting") this.become("off");
  }

  async flip(): Promise<void> {
    this.facing = this.facing === "environment" ? "user" : "environment";
    this.stop();
    await this.start();
  }

  /** The frame of this moment, or null where the camera shows none. */
  grab(): ImageData | null {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (this.state !== "on" || width === 0 || this.context === null) return null;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.context.drawImage(this.video, 0, 0);
    return this.context.getImageData(0, 0, width, height);
  }

  private release(): void {
    if (this.stream !== null) close(this.stream);
    this.stream = null;
    this.video.srcObject = null;
  }

  private become(state: CameraState): void {
    this.state = state;
    this.changed();
  }
}

function close(stream: MediaStream): void {
  for (const track of stream.getTracks()) track.stop();
}

function firstFrame(video: HTMLVideoElement): Promise<void> {
  if (video.videoWidth > 0 && video.readyState >= 2) return Promise.resolve();
  return new Promise((done) => video.addEventListener("loadeddata", () => done(), { once: true }));
}

function reason(e: unknown): CameraState {
  const name = e instanceof DOMException ? e.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") return "refused";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "missing";
  return "busy";
}
