/// <reference types="vite/client" />

// Filled in by vite.config.ts.
declare const __LITERT_VERSION__: string;
declare const __LITERT_FOLDER__: string;

// The part of WebGPU that the app itself looks at.
interface GpuAdapter {
  readonly info?: { vendor?: string; architecture?: string; description?: string };
}
interface Navigator {
  readonly gpu?: { requestAdapter(options?: { powerPreference?: string }): Promise<GpuAdapter | null> };
  readonly deviceMemory?: number;
  readonly userAgentData?: {
    readonly platform?: string;
    getHighEntropyValues?(hints: string[]): Promise<{ model?: string; platform?: string }>;
  };
}
