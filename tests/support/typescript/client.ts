// A client that is type-checked against the OpenAPI document (tests/api/test_other_interfaces.py).
import type { components, paths } from "./types";

type Submission = paths["/v1/jobs"]["post"];
type Job = Submission["responses"][202]["content"]["application/json"];
type Request = Submission["requestBody"]["content"]["application/json"];
type Batch = components["schemas"]["Batch"];

export const request: Request = { audio_data: "UklGR…", top_k: 3, include: ["spectrogram"] };
export const names = (batch: Batch): string[] => batch.members.map((member) => member.name);
export const first = (job: Job): string | undefined => job.result?.predictions[0]?.class;
