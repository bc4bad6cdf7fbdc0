import react from "@vitejs/plugin-react";
import { defineConfig, loadEnv } from "vite";

export default defineConfig(({ mode }) => ({
  plugins: [react()],
  build: {
    // What the package promises; see the README.
    target: ["chrome123", "firefox121", "safari17.5"],
    // The policy of the pages forbids data: for scripts and styles, and fonts are not needed.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    license: { fileName: "licenses.md" },
  },
  worker: { format: "es" },
  // `npm run dev` asks a running stack, at the address in DRAGONFLY_URL.
  server: { proxy: { "/api": loadEnv(mode, ".", "DRAGONFLY_")["DRAGONFLY_URL"] ?? "http://127.0.0.1:8000" } },
}));
