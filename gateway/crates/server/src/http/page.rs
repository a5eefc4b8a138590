//! The built-in page: three files compiled in, the same bytes for everybody.

use axum::{Router, body::Body, routing::get};
use http::{HeaderValue, Response, header};

use super::reply::PAGE_CSP;

const INDEX: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../web/index.html"
));
const SCRIPT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../web/app.js"));
const STYLE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../web/style.css"
));

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut out = Response::new(Body::from(text));
    out.headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    out.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_CSP),
    );
    out
}

/// `/`, `/app.js`, `/style.css`.
pub(crate) fn routes() -> Router {
    Router::new()
        .route(
            "/",
            get(|| async { file("text/html; charset=utf-8", INDEX) }),
        )
        .route(
            "/app.js",
            get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route(
            "/style.css",
            get(|| async { file("text/css; charset=utf-8", STYLE) }),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: B11.
    #[test]
    fn the_page_names_no_other_server() {
        for text in [INDEX, SCRIPT, STYLE] {
            for bad in [
                "http://",
                "https://",
                "//cdn",
                "@import",
                "url(",
                "eval(",
                "innerHTML",
                "document.write",
            ] {
                assert!(!text.contains(bad), "{bad}");
            }
        }
        assert!(
            !INDEX.contains("<script>") && !INDEX.contains("style=") && !INDEX.contains("onclick=")
        );
    }

    #[test]
    fn the_script_reads_no_address_and_no_token_from_the_url() {
        for bad in [
            "location.search",
            "location.hash",
            "URLSearchParams",
            "postMessage",
            "localStorage",
            "document.referrer",
            "window.opener",
        ] {
            assert!(!SCRIPT.contains(bad), "{bad}");
        }
    }
}
