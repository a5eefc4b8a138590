//! The built-in page in a headless browser.
