// Rank, record, rate and read back, with all types checked: node build/try.js URL TOKEN
import { rlhfLoop } from "./index.js";

const [url, token] = process.argv.slice(2);
const client = rlhfLoop(url, token);
const query = "What helps against a migraine attack?";
const documents = ["Museums open at ten.", "Rest in a dark room, and drink water."];

const ranked = await client.POST("/v1/rerank", { body: { query, documents } });
const best = ranked.data?.results[0];
const said = await client.POST("/v1/feedback", {
  body: { prompt: query, response: documents[best?.index ?? 0], thumb: "up", reviewer: "node" },
});
const wrong = await client.POST("/v1/feedback", { body: { prompt: query, response: "x", rating: 9, reviewer: "node" } });

const fine = best?.index === 1 && said.data?.rating === 5 && wrong.response.status === 422;
const result = fine ? "works" : `gives ${JSON.stringify([ranked.error ?? ranked.data, said.error ?? said.data])}`;
console.log(JSON.stringify({ what: "`make client-ts`: rank, rate, a mistake refused", version: "7.13 of openapi-typescript", result }));
