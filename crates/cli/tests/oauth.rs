//! Tests of `tieline serve --oauth-issuer` with an authorization server whose tokens are signed by the
//! library jose, and with the official MCP client.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use support::site::{Site, TOKEN, status_of};
use support::{Program, Talk, closed_port, mcp_sdk, server_everything, tieline};

/// An authorization server for the grant `client_credentials`. It prints its URL, and then a line for each
/// token that it issues. For a line of its stdin with the URL of an MCP server, it runs an MCP client that
/// has no token yet; for `token AUDIENCE SCOPE` it prints a token.
const ISSUER: &str = r#"
    const http = require("node:http");
    const library = require("node:module").createRequire("SDK/client/index.js");
    const { Client } = library("SDK/client/index.js");
    const { StreamableHTTPClientTransport } = library("SDK/client/streamableHttp.js");
    const { ClientCredentialsProvider } = library("SDK/client/auth-extensions.js");
    (async () => {
        const jose = await import(library.resolve("jose"));
        const { publicKey, privateKey } = await jose.generateKeyPair("RS256");
        const jwk = { ...(await jose.exportJWK(publicKey)), kid: "one", use: "sig", alg: "RS256" };
        let url;
        const sign = (audience, scope) => new jose.SignJWT({ scope, client_id: "me" })
            .setProtectedHeader({ alg: "RS256", kid: "one", typ: "at+jwt" })
            .setIssuer(url).setSubject("me").setAudience(audience).setIssuedAt().setExpirationTime("5m")
            .sign(privateKey);
        const server = http.createServer(async (request, response) => {
            let body = "";
            for await (const part of request) body += part;
            const json = (value) => {
                response.setHeader("content-type", "application/json");
                response.end(JSON.stringify(value));
            };
            if (request.url === "/.well-known/oauth-authorization-server") {
                return json({
                    issuer: url, token_endpoint: url + "/token", jwks_uri: url + "/jwks",
                    authorization_endpoint: url + "/authorize", response_types_supported: ["code"],
                    grant_types_supported: ["client_credentials"],
                    token_endpoint_auth_methods_supported: ["client_secret_basic"],
                });
            }
            if (request.url === "/jwks") return json({ keys: [jwk] });
            if (request.url === "/token") {
                const form = new URLSearchParams(body);
                console.log("issued", form.get("resource"), form.get("scope"));
                const access_token = await sign(form.get("resource"), form.get("scope"));
                return json({ access_token, token_type: "Bearer", expires_in: 300 });
            }
            response.statusCode = 404;
            response.end();
        });
        server.listen(0, "127.0.0.1", () => {
            url = "http://127.0.0.1:" + server.address().port;
            console.log(url);
        });
        for await (const line of require("node:readline").createInterface({ input: process.stdin })) {
            const [word, audience, scope] = line.split(" ");
            if (word === "token") {
                console.log(await sign(audience, scope));
                continue;
            }
            const authProvider = new ClientCredentialsProvider({
                clientId: "me", clientSecret: "secret", expectedIssuer: url, scope: "mcp:use",
            });
            const client = new Client({ name: "test", version: "1" });
            const transport = new StreamableHTTPClientTransport(new URL(line), { authProvider });
            await client.connect(transport);
            const answer = await client.callTool({ name: "echo", arguments: { message: "hello" } });
            console.log(answer.content[0].text);
            await transport.terminateSession();
            await client.close();
        }
        server.close();
        server.closeAllConnections();
    })();"#;

struct Issuer {
    program: Program,
    url: String,
}

impl Issuer {
    #[track_caller]
    fn start() -> Self {
        let script = ISSUER.replace("SDK", mcp_sdk().to_str().unwrap());
        let mut program = Program::start(Command::new("node").args(["-e", &script]));
        let Some(url) = program.line() else { panic!("{}", program.stderr()) };
        Self { program, url }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.program.line().unwrap_or_else(|| panic!("{}", self.program.stderr()))
    }

    fn token(&mut self, audience: &str, scope: &str) -> String {
        self.program.send(&format!("token {audience} {scope}"));
        self.line()
    }
}

#[test]
fn the_official_mcp_client_gets_a_token_by_itself() {
    let mut issuer = Issuer::start();
    let command = server_everything();
    let serve = ["--oauth-issuer", &issuer.url, "--oauth-scope", "mcp:use", "--"];
    let site = Site::start(&[&serve[..], &command.each_ref().map(|it| &**it)].concat());
    let url = format!("{}/mcp", site.endpoint);
    issuer.program.send(&url);
    assert_eq!(issuer.line(), format!("issued {url} mcp:use"));
    assert_eq!(issuer.line(), "Echo: hello");
    let finished = issuer.program.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let stderr = site.stop();
    let (_, clients) = stderr.split_once("MCP clients: ").unwrap();
    let clients = clients.split("other clients").next().unwrap();
    assert!(!clients.contains("Bearer"), "the client gets a token by itself: {clients}");
}

#[test]
fn access_token_is_admitted_beside_the_own_token_and_not_passed_on() {
    let mut issuer = Issuer::start();
    let print = ["--", "sh", "-c", "read -r line; env; exit 0"];
    let serve = ["--oauth-issuer", &issuer.url, "--oauth-audience", "api://one"];
    let site = Site::start(&[&serve[..], &print].concat());
    let good = issuer.token("api://one", "any");
    let other = issuer.token(&format!("{}/mcp", site.endpoint), "any");
    for (token, status) in [(&*good, "404"), (TOKEN, "404"), (&other, "401"), ("", "401")] {
        let answer = site.get("/nothing", &format!("Authorization: Bearer {token}\r\n"));
        assert_eq!(status_of(&answer), status, "{answer}");
    }
    let answer = site.get("/metrics", &format!("Authorization: Bearer {good}\r\n"));
    assert!(answer.contains("tieline_web_refused_total{cause=\"token\"} 2"), "{answer}");
    let mut connect = tieline(["connect", &site.web_socket()]);
    let headers = format!("Authorization: Bearer {good}");
    let finished = Program::run(connect.env("TIELINE_HEADERS", headers), "{}\n");
    assert!(finished.stdout.contains("PATH="), "{finished:?}");
    assert!(!finished.stdout.contains(&good), "the program does not get the token");
    let stderr = site.stop();
    assert!(!stderr.contains(&good) && !stderr.contains(&other), "{stderr}");
    assert!(stderr.contains("another audience than api://one"), "{stderr}");
    assert_eq!(issuer.program.finish().code, Some(0));
}

#[test]
fn unreachable_issuer_is_logged_at_start() {
    let (_bound, address) = closed_port();
    let issuer = format!("http://{address}");
    let site = Site::start(&["--oauth-issuer", &issuer, "--", "cat"]);
    site.program.wait_stderr(&format!("cannot fetch the keys of the OAuth issuer {issuer}: "));
    let answer = site.get("/metrics", "Authorization: Bearer a.b.c\r\n");
    assert_eq!(status_of(&answer), "401", "{answer}");
    let answer = site.get("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"));
    assert_eq!(status_of(&answer), "200", "{answer}");
    site.stop();
}

#[test]
fn contradicting_options_are_usage_errors() {
    let issuer = ["--oauth-issuer", "https://example.org"];
    let web = ["--listen", "http://127.0.0.1:0"];
    for (args, says) in [
        (&[&web[..], &["--oauth-issuer", "http://example.org"]].concat(), "must be an https: URL"),
        (&[&web[..], &["--oauth-scope", "a"]].concat(), "--oauth-issuer"),
        (&[&web[..], &["--oauth-audience", "a"]].concat(), "--oauth-issuer"),
        (&[&web[..], &issuer, &["--oauth-scope", "a b"]].concat(), "must be at most 32 words"),
        (&[&web[..], &issuer, &["--allow-unauthenticated-web"]].concat(), "cannot be used with"),
        (&[&issuer[..], &["--listen", "unix:/nowhere/a"]].concat(), "--oauth-issuer has no effect"),
        (
            &[&issuer[..], &["--listen", "http-unix:/nowhere/a"]].concat(),
            "--oauth-issuer needs --oauth-audience or --public-url",
        ),
    ] {
        let finished = Program::run(tieline(["serve"]).args(args).args(["--", "cat"]), "");
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(says), "{args:?}: {}", finished.stderr);
    }
}
