// Globals of the page that TypeScript's DOM library does not have.

/** The scope of an audio worklet; see api/static/js/input/recorder-worklet.js. */
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;

/** Swagger UI; see api/static/docs.js. */
declare function SwaggerUIBundle(options: Record<string, unknown>): unknown;
