// Vercel's AI SDK: documents are ranked by its Cohere provider, and rated by the ranking's id.
//
//     npm install ai @ai-sdk/cohere
//     LOOP_URL=http://127.0.0.1:8000 LOOP_TOKEN=rlhf_... node vercel_ai.mjs
//
// The token needs the scopes rerank and reviews:write, and --record 1.
import { createCohere } from "@ai-sdk/cohere";
import { rerank } from "ai";

const { LOOP_URL: url, LOOP_TOKEN: token } = process.env;
const cohere = createCohere({ baseURL: `${url}/v2`, apiKey: token });
const documents = [
  { page: 1, text: "Museums open at ten." },
  { page: 2, text: "Rinse the eye with clean water for fifteen minutes." },
];

const { ranking, response } = await rerank({
  model: cohere.reranking("rlhf-loop"),
  query: "What do I do with soap in the eye?",
  documents,
});
for (const { score, document } of ranking) console.log(score.toFixed(2), document.text);

const said = await fetch(`${url}/v1/feedback`, {
  method: "POST",
  headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
  body: JSON.stringify({
    ranking: response.headers["x-rlhf-ranking-id"],
    index: ranking[0].originalIndex,
    thumb: "up",
    reviewer: "patient-7",
  }),
});
if (!said.ok) throw new Error(await said.text());
console.log("Rated.");
