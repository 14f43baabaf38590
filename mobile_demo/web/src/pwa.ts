// Offline and installation: registers the service worker where the browser allows one, and says so where it does not.
import { Signal } from "./dom";

interface InstallEvent extends Event {
  prompt(): Promise<unknown>;
}

export class Pwa {
  readonly state = new Signal("Looking…");
  readonly installable = new Signal(false);
  /** A newer build waits; calling it takes it. */
  readonly update = new Signal<(() => void) | null>(null);
  private asking: InstallEvent | null = null;

  async start(lasting: boolean): Promise<void> {
    window.addEventListener("beforeinstallprompt", (e) => {
      e.preventDefault();
      this.asking = e as InstallEvent;
      this.installable.set(true);
    });
    window.addEventListener("appinstalled", () => this.installable.set(false));
    this.state.set(await this.register());
    if (!lasting)
      this.state.set(
        "This browser keeps nothing between visits (a private window, perhaps): export your classes before you leave.",
      );
  }

  async install(): Promise<void> {
    await this.asking?.prompt();
  }

  private async register(): Promise<string> {
    if (!window.isSecureContext || !("serviceWorker" in navigator))
      return "Not available here: browsers keep apps offline only over https or on localhost. Everything else works while the computer answers.";
    try {
      const registration = await navigator.serviceWorker.register("sw.js");
      this.watch(registration);
      void navigator.storage?.persist?.().catch(() => false);
      await navigator.serviceWorker.ready;
      return "This app and the models you used work without a network.";
    } catch {
      return "Not available here: with a self-signed certificate browsers refuse to keep apps offline. Everything else works while the computer answers.";
    }
  }

  private watch(registration: ServiceWorkerRegistration): void {
    const waits = () => {
      const { waiting } = registration;
      if (waiting === null || navigator.serviceWorker.controller === null) return;
      this.update.set(() => {
        navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
        waiting.postMessage("activate");
      });
    };
    waits();
    registration.addEventListener("updatefound", () => registration.installing?.addEventListener("statechange", waits));
  }
}
