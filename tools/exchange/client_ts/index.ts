// A typed client: paths, bodies and answers are those of /openapi.json, by openapi-typescript and openapi-fetch.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

export type { components, paths } from "./schema.js";

/** Return a client of the service at `url` with a token of one of its users. Each write bears an Idempotency-Key. */
export function rlhfLoop(url: string, token: string) {
  const client = createClient<paths>({
    baseUrl: url.replace(/\/+$/, ""),
    headers: { Authorization: `Bearer ${token}`, Accept: "application/json" },
  });
  client.use({
    onRequest({ request }) {
      if (request.method === "POST" && !request.headers.has("Idempotency-Key")) {
        request.headers.set("Idempotency-Key", `"${crypto.randomUUID()}"`);
      }
      return request;
    },
  });
  return client;
}
