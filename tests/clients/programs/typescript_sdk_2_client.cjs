// The official TypeScript SDK 2.x, in the era of the third argument: auto or legacy. Its packages are in the folder of the
// second. What it says: scenario.py.
const { createRequire } = require("node:module");
const { createInterface } = require("node:readline");

const [kind, place, mode] = process.argv.slice(2);
const sdk = createRequire(`${place}/package.json`);
const { Client, StreamableHTTPClientTransport } = sdk("@modelcontextprotocol/client");
const { StdioClientTransport } = sdk("@modelcontextprotocol/client/stdio");

function transport() {
  const { COMPTROLLER_URL, COMPTROLLER_TOKEN, COMPTROLLER_STDIO } = process.env;
  if (kind === "http") {
    const headers = { Authorization: `Bearer ${COMPTROLLER_TOKEN}` };
    return new StreamableHTTPClientTransport(new URL(COMPTROLLER_URL), { requestInit: { headers } });
  }
  const [command, ...args] = JSON.parse(COMPTROLLER_STDIO);
  return new StdioClientTransport({ command, args, env: process.env });
}

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

async function main() {
  const client = new Client({ name: "typescript-sdk-2", version: "1" }, { versionNegotiation: { mode } });
  await client.connect(transport());
  const spoken = client.getNegotiatedProtocolVersion();
  if (spoken !== { auto: "2026-07-28", legacy: "2025-11-25" }[mode]) throw new Error(`${mode} speaks ${spoken}`);
  say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    if (asked.call === undefined) break;
    const result = await client.callTool({ name: asked.call, arguments: asked.arguments });
    const texts = result.content.filter((part) => part.type === "text").map((part) => part.text);
    say({ text: texts.join("\n"), failed: result.isError === true });
  }
  await client.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
