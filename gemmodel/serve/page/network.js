// Requests to the server. A failure has the key of its sentence.
import { has, t } from "./language.js";

const TIMEOUT_MS = 180_000;
const RETRY_AFTER_S = 5; // where the server, or a proxy before it, does not say when
// 500 is about one photo, other statuses from 500 on are a proxy's that does not reach the server.
const KEYS = { 408: "slow", 410: "gone", 413: "too_large", 429: "too_many", 500: "busy", 503: "busy" };

export class Failure extends Error {
  constructor(key, { values = {}, retryAfter = 0 } = {}) {
    super(key);
    Object.assign(this, { key, values, retryAfter });
  }
}

export const sentence = (error) => error instanceof Failure ? t(error.key, error.values) : error.message;

const lost = () => new Failure(navigator.onLine ? "lost" : "offline");
// The server's message is in English; its key and values make the same sentence in any language.
const refused = (status, body, retryAfter) => {
  const key = has(body?.key) ? body.key : KEYS[status] ?? (status >= 500 ? "lost" : "refused");
  return new Failure(key, { values: { ...body?.values, status }, retryAfter: Number(retryAfter) || RETRY_AFTER_S });
};

// Sends a photo, and returns the response's object. `fetch` does not report the progress of an upload.
export function send(path, photo, { signal, onProgress = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.timeout = TIMEOUT_MS;
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => request.status < 300 ? resolve(request.response)
      : reject(refused(request.status, request.response, request.getResponseHeader("Retry-After")));
    request.onerror = () => reject(lost());
    request.ontimeout = () => reject(new Failure("slow"));
    request.onabort = () => reject(new Failure("cancelled"));
    if (signal?.aborted) return reject(new Failure("cancelled"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(photo);
  });
}

// Returns a response whose body has arrived.
export async function get(path, signal) {
  const response = await fetch(path, { signal }).then(async (begun) => new Response(await begun.blob(), begun))
    .catch((error) => { throw error.name === "AbortError" ? new Failure("cancelled") : lost(); });
  if (response.ok) return response;
  throw refused(response.status, await response.json().catch(() => null), response.headers.get("Retry-After"));
}
