// The Azure SDK for JavaScript, unmodified, through the life of a run command; what it saw is printed as JSON.
// Where the SDK is installed and which server is meant comes from the environment.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_TOOLS}/`);
const { ClientSecretCredential } = require("@azure/identity");
const { ComputeManagementClient } = require("@azure/arm-compute");

const { ENDPOINT, TENANT_ID, CLIENT_ID, CLIENT_SECRET, SUBSCRIPTION_ID, VM_NAME } = process.env;
const group = "enjoin";
const credential = new ClientSecretCredential(TENANT_ID, CLIENT_ID, CLIENT_SECRET, {
  authorityHost: ENDPOINT,
  disableInstanceDiscovery: true,
});
const client = new ComputeManagementClient(credential, SUBSCRIPTION_ID, {
  endpoint: ENDPOINT,
  credentials: { scopes: [`${ENDPOINT}/.default`] },
});
const commands = client.virtualMachineRunCommands;

const seen = {};
const body = { location: "local", source: { script: "echo one" }, protectedParameters: [{ name: "p", value: "hunter2" }] };
const created = await commands.createOrUpdate(group, VM_NAME, "node", body);
seen.created = [created.name, created.provisioningState];
const view = await commands.getByVirtualMachine(group, VM_NAME, "node", { expand: "instanceView" });
seen.view = [view.instanceView.executionState, view.instanceView.exitCode, view.instanceView.output];
const updated = await commands.update(group, VM_NAME, "node", { source: { script: 'echo "two $p" | tr h H' }, tags: { a: "b" } });
seen.updated = [updated.provisioningState, updated.tags, updated.source.script];
const again = await commands.getByVirtualMachine(group, VM_NAME, "node", { expand: "instanceView" });
seen.again = again.instanceView.output;
seen.failed = await commands.getByVirtualMachine(group, VM_NAME, "nobody").catch((error) => [error.statusCode, error.code]);
seen.listed = [];
for await (const command of commands.listByVirtualMachine(group, VM_NAME, { expand: "instanceView" })) {
  seen.listed.push([command.name, command.instanceView.executionState]);
}
await commands.delete(group, VM_NAME, "node");
seen.gone = await commands.getByVirtualMachine(group, VM_NAME, "node").catch((error) => error.statusCode);
console.log(JSON.stringify(seen));
