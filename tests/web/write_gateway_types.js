/**
 * Writes services/usageledger/web/gateway.d.ts: the gateway's answers as types, of openapi.json.
 * `make schemas` runs it; a test compares the file with what it would write.
 */

import { readFileSync, writeFileSync } from "node:fs";

/**
 * @typedef {{ $ref?: string, type?: string, enum?: string[], anyOf?: Schema[], items?: Schema,
 *   properties?: Record<string, Schema>, additionalProperties?: Schema | boolean,
 *   required?: string[] }} Schema
 */

const COLUMNS = 100;
const OPENAPI = new URL("../../schemas/openapi.json", import.meta.url);
const TYPES = new URL("../../services/usageledger/web/gateway.d.ts", import.meta.url);

/** @param {Record<string, Schema>} schemas */
export function typesOf(schemas) {
  const lines = [
    "// The gateway's answers. `make schemas` writes this file from schemas/openapi.json.",
    "",
    "declare namespace Gateway {",
  ];
  for (const [name, schema] of Object.entries(schemas).sort()) {
    if (!schema.properties || !/^[A-Z]\w*$/.test(name)) continue;
    lines.push(`  interface ${name} {`);
    for (const [key, value] of Object.entries(schema.properties)) {
      lines.push(property(`${key}${schema.required?.includes(key) ? "" : "?"}`, typeOf(value)));
    }
    lines.push("  }", "");
  }
  lines.splice(-1, 1, "}", "");
  return lines.join("\n");
}

/**
 * A property as Prettier writes it: a long union has one line for each member.
 * @param {string} name
 * @param {string} type
 */
function property(name, type) {
  const line = `    ${name}: ${type};`;
  return line.length <= COLUMNS
    ? line
    : line.replaceAll(/:? (?:\| )?(?=")/g, (before) =>
        before.startsWith(":") ? ":\n      | " : "\n      | ",
      );
}

/**
 * @param {Schema} schema
 * @returns {string}
 */
function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1) ?? "unknown";
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `${grouped(typeOf(schema.items ?? {}))}[]`;
  if (schema.type === "object") return recordType(schema.additionalProperties);
  if (schema.type === "integer") return "number";
  return ["string", "number", "boolean", "null"].find((name) => name === schema.type) ?? "unknown";
}

/** @param {string} type */
const grouped = (type) => (type.includes(" ") ? `(${type})` : type);

/** @param {Schema | boolean | undefined} values */
const recordType = (values) =>
  `Record<string, ${typeof values === "object" ? typeOf(values) : "unknown"}>`;

/** The content that the file should have. */
export function currentTypes() {
  return typesOf(JSON.parse(readFileSync(OPENAPI, "utf8")).components.schemas);
}

/** The content that the file has. */
export const committedTypes = () => readFileSync(TYPES, "utf8");

if (process.argv[1] === import.meta.filename) writeFileSync(TYPES, currentTypes());
