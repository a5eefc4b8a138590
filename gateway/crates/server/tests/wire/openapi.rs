//! The description of the HTTP addresses.

use gateway_server::openapi::document;

use crate::support::*;

#[test]
fn every_reference_leads_somewhere_and_ids_are_unique() {
    let document = document();
    let text = document.to_string();
    for piece in text.split("\"$ref\":\"#").skip(1) {
        let at = piece.split('"').next().unwrap();
        assert!(document.pointer(at).is_some(), "{at}");
    }
    let ids: Vec<&str> = text
        .split("\"operationId\":\"")
        .skip(1)
        .map(|piece| piece.split('"').next().unwrap())
        .collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert!(ids.len() > 10 && unique.len() == ids.len(), "{ids:?}");
}

/// The source of the routes and the description name the same addresses.
#[test]
fn the_router_and_the_description_agree() {
    let sources = [
        include_str!("../../src/http/page.rs"),
        include_str!("../../src/http/health.rs"),
        include_str!("../../src/http/openapi.rs"),
        include_str!("../../src/http/rpc.rs"),
        include_str!("../../src/http/openai.rs"),
        include_str!("../../src/http/responses.rs"),
        include_str!("../../src/http/embeddings.rs"),
        include_str!("../../src/http/tools.rs"),
        include_str!("../../src/http/history.rs"),
        include_str!("../../src/http/metrics.rs"),
    ];
    let mut routed: Vec<String> = Vec::new();
    for source in sources {
        for piece in source.split(".route(").skip(1) {
            let path = piece.split('"').nth(1).unwrap();
            let path = path.replace("{*model}", "{model}");
            routed.push(path.replace("/responses/{id}", "/responses/{response}"));
        }
    }
    routed.sort();
    let document = document();
    let mut described: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    described.sort();
    assert_eq!(routed, described);
    // A file with routes that is not looked at here would hide an address: webhooks and hooks are the other two.
    let router = include_str!("../../src/http/mod.rs");
    assert_eq!(router.matches("::routes()").count(), sources.len() + 2);
}

/// What is there for everybody and what is not, as the description says.
/// Covers: B10.
#[test]
fn only_what_is_described_as_open_is_open() {
    let gw = plain();
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let asked = path
                .replace("{model}", "openclaw")
                .replace("{response}", "resp_1")
                .replace("{key}", "main");
            let answer = gw.ask(
                &method.to_uppercase(),
                &asked,
                &[("Content-Type", "application/json")],
                b"",
            );
            let open = operation["security"].as_array().unwrap().is_empty();
            assert_eq!(answer.status == 401, !open, "{method} {path} {answer:?}");
        }
    }
    let bearer = format!("Bearer {TOKEN}");
    let served = gw.ask("GET", "/openapi.json", &[("Authorization", &bearer)], b"");
    assert_eq!(served.json(), document);
}
