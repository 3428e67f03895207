// Classifies a sound, and a text, with Hugging Face's client (tests/api/test_other_interfaces.py).
import { readFileSync } from "node:fs";
import { InferenceClient } from "@huggingface/inference";

const [endpointUrl, path] = process.argv.slice(2);
const client = new InferenceClient("", { endpointUrl });
const found = await client.audioClassification({ data: new Blob([readFileSync(path)]) });
const error = await client.audioClassification({ data: new Blob(["text"]) }).catch((failure) => failure.message);
console.log(JSON.stringify([found, error]));
