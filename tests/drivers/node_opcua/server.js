// An OPC UA server written by others, for the tests of the driver. Settings come as JSON in argv[2],
// commands as JSON lines on stdin; each is answered by a line on stdout.
"use strict";
const { OPCUAServer } = require("node-opcua-server");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { DataType, VariantArrayType } = require("node-opcua-variant");
const { StatusCodes } = require("node-opcua-status-code");
const { SecurityPolicy, MessageSecurityMode } = require("node-opcua-secure-channel");

const settings = JSON.parse(process.argv[2]);
const POLICIES = ["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"];
let created = 0;
const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");

async function main() {
    const manager = (name) => new OPCUACertificateManager({
        rootFolder: `${settings.folder}/${name}`,
        automaticallyAcceptUnknownCertificate: name === "pki" ? !!settings.trusting : true,
    });
    const server = new OPCUAServer({
        hostname: "127.0.0.1", host: "127.0.0.1", port: settings.port, alternateHostname: ["127.0.0.1"],
        serverInfo: { applicationUri: "urn:node:plant" },
        serverCertificateManager: manager("pki"),
        userCertificateManager: manager("users"),
        securityPolicies: POLICIES.map((name) => SecurityPolicy[name]),
        securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
        allowAnonymous: true,
        userManager: { isValidUser: (user, password) => user === "edge" && password === "right" },
        serverCapabilities: { operationLimits: settings.limits || {} },
        maxSessions: 20,
    });
    await server.initialize();
    const space = server.engine.addressSpace;
    for (const uri of settings.before || []) space.registerNamespace(uri);
    const plant = space.registerNamespace("urn:demo:plant");
    const nodes = {};
    const add = (name, dataType, value, arrayType) => {
        nodes[name] = plant.addVariable({
            organizedBy: space.rootFolder.objects, browseName: name, nodeId: `s=${name}`, dataType,
            valueRank: arrayType ? 1 : -1, arrayDimensions: arrayType ? [value.length] : null,
            minimumSamplingInterval: 10,
        });
        nodes[name].setValueFromSource({ dataType, value, arrayType: arrayType || VariantArrayType.Scalar });
    };
    for (const [name, type, value] of settings.values) {
        if (Array.isArray(value) && !["Int64", "UInt64"].includes(type)) {
            add(name, DataType[type], Float64Array.from(value), VariantArrayType.Array);
        } else {
            add(name, DataType[type], type === "DateTime" ? new Date(value) : value);
        }
    }
    for (const name of settings.historizing || []) space.installHistoricalDataNode(nodes[name], {
        maxOnlineValues: 10000,
    });
    server.on("create_session", () => { created += 1; });
    await server.start();
    const commands = {
        write: ({ name, type, value, status, at }) => nodes[name].setValueFromSource(
            { dataType: DataType[type], value, arrayType: VariantArrayType.Scalar }, StatusCodes[status || "Good"], at ? new Date(at) : new Date()),
        sessions: () => ({ created, open: server.engine.currentSessionCount }),
        trust: async ({ file }) => {
            const certificate = require("fs").readFileSync(file);
            await server.serverCertificateManager.trustCertificate(certificate);
        },
        stop: async () => { await server.shutdown(10); setTimeout(() => process.exit(0), 20); },
    };
    const lines = require("readline").createInterface({ input: process.stdin });
    lines.on("line", async (line) => {
        const { command, ...rest } = JSON.parse(line);
        try {
            say((await commands[command](rest)) || {});
        } catch (error) {
            say({ error: String(error) });
        }
    });
    say({ ready: settings.port });
}
main().catch((error) => { say({ error: String(error && error.stack) }); process.exit(1); });
