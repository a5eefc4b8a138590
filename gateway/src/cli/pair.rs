//! `gateway pair LINK`: this machine becomes a device of a gateway by a setup code.

use std::io::Read as _;

use clap::Args as ClapArgs;
use serde_json::json;

use super::output::{Exit, Failure, clean, print, text};
use super::{Global, target};

#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The link (oc-pair://…) or code that `gateway devices setup-code` printed there; - reads it from standard input, where no
    /// other user of this machine sees it.
    link: String,
}

/// What is read of standard input; a link is far shorter.
const LINK_MAX_BYTES: u64 = 16 * 1024;

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let link = match args.link.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(LINK_MAX_BYTES)
                .read_to_string(&mut text)
                .map_err(|e| {
                    Failure::new(
                        Exit::Usage,
                        format!("standard input: {e}"),
                        "write the link into it, or give it as the argument",
                    )
                })?;
            text
        }
        _ => args.link,
    };
    let dir = global.state_dir()?.join("identity");
    let joined = gateway_client::join(&dir, &link, target::timeout(global)).await?;
    let pins: Vec<String> = joined.pins.iter().map(ToString::to_string).collect();
    let result = json!({
        "gatewayUrl": joined.url,
        "roles": joined.roles,
        "tlsFingerprints": pins,
    });
    print(global.json, &result, |r| {
        let url = clean(&text(r, "gatewayUrl"));
        let certificate = match joined.pins.is_empty() {
            true => "",
            false => " and knows its certificate",
        };
        let next = match joined.roles.iter().any(|role| role == "operator") {
            true => format!(
                "next: gateway status --url {url}   (or for all commands: export GATEWAY_URL={url})"
            ),
            false => "it is a node there".to_owned(),
        };
        format!("this machine is paired with {url}{certificate}\n{next}")
    })
}
