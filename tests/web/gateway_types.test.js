/** gateway.d.ts says what openapi.json says. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { committedTypes, currentTypes, typesOf } from "./write_gateway_types.js";

test("the committed types are those of openapi.json: run `make schemas`", () => {
  assert.equal(committedTypes(), currentTypes());
});

test("nullable, listed, mapped and optional properties keep their meaning", () => {
  const types = typesOf({
    Thing: {
      properties: {
        name: { type: "string" },
        count: { anyOf: [{ type: "integer" }, { type: "null" }] },
        kinds: { type: "array", items: { enum: ["a", "b"] } },
        parts: { type: "object", additionalProperties: { $ref: "#/components/schemas/Part" } },
      },
      required: ["name", "count"],
    },
  });
  assert.match(types, /name: string;\n {4}count: number \| null;/);
  assert.match(types, /kinds\?: \("a" \| "b"\)\[\];\n {4}parts\?: Record<string, Part>;/);
});
