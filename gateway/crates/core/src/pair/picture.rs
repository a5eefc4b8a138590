//! A setup code as a picture to scan: a PNG in a `data:` address, as pages show it.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use qrcode::{Color, EcLevel, QrCode};

use crate::limits::SETUP_PICTURE_MAX_BYTES;

/// White around the code, in modules: readers ask for four.
const QUIET: usize = 4;
/// Pixels of a module, the largest that fits.
const SCALES: [usize; 4] = [4, 3, 2, 1];

/// The picture; `None` for a text that is too long for one.
pub(crate) fn data_url(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    SCALES
        .into_iter()
        .filter_map(|scale| {
            let png = STANDARD.encode(png(&code, scale)?);
            Some(format!("data:image/png;base64,{png}"))
        })
        .find(|url| url.len() <= SETUP_PICTURE_MAX_BYTES)
}

/// Black and white, one bit a pixel.
fn png(code: &QrCode, scale: usize) -> Option<Vec<u8>> {
    let modules = code.width();
    let side = (modules + 2 * QUIET) * scale;
    let colors = code.to_colors();
    let dark = |x: usize, y: usize| {
        let at = |p: usize| (p / scale).checked_sub(QUIET).filter(|m| *m < modules);
        let module = at(x).zip(at(y)).map(|(x, y)| y * modules + x);
        module.and_then(|module| colors.get(module)) == Some(&Color::Dark)
    };
    let mut rows = Vec::with_capacity(side * (side / 8 + 2));
    for y in 0..side {
        // No filter.
        rows.push(0);
        for byte in 0..side.div_ceil(8) {
            let bits = (0..8).map(|bit| byte * 8 + bit);
            rows.push(bits.fold(0_u8, |bits, x| bits << 1 | u8::from(!dark(x, y))));
        }
    }
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&rows).ok()?;
    let packed = packed.finish().ok()?;
    let size = u32::try_from(side).ok()?.to_be_bytes();
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    // One bit, grey, and the only methods that there are.
    chunk(
        &mut out,
        b"IHDR",
        &[&size[..], &size, &[1, 0, 0, 0, 0]].concat(),
    );
    chunk(&mut out, b"IDAT", &packed);
    chunk(&mut out, b"IEND", &[]);
    Some(out)
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], body: &[u8]) {
    out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    let checked = [&kind[..], body].concat();
    out.extend_from_slice(&checked);
    let mut sum = Crc::new();
    sum.update(&checked);
    out.extend(sum.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use super::*;

    /// The chunks of a PNG, each with a good sum.
    fn chunks(png: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
        let mut out = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let (kind, body) = (&rest[4..8], &rest[8..8 + length]);
            let sum = u32::from_be_bytes(rest[8 + length..12 + length].try_into().unwrap());
            let mut own = Crc::new();
            own.update(&rest[4..8 + length]);
            assert_eq!(sum, own.sum());
            out.push((String::from_utf8(kind.to_vec()).unwrap(), body.to_vec()));
            rest = &rest[12 + length..];
        }
        out
    }

    #[test]
    fn the_picture_shows_the_code() {
        let text = "x".repeat(300);
        let url = data_url(&text).unwrap();
        let base64 = url.strip_prefix("data:image/png;base64,").unwrap();
        assert!(url.len() <= 16_384, "{}", url.len());
        let png = STANDARD.decode(base64).unwrap();
        let chunks = chunks(&png);
        let names: Vec<&str> = chunks.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["IHDR", "IDAT", "IEND"]);
        let side = u32::from_be_bytes(chunks[0].1[..4].try_into().unwrap()) as usize;
        let code = QrCode::with_error_correction_level(&text, EcLevel::L).unwrap();
        let scale = side / (code.width() + 2 * QUIET);
        assert!(scale >= 2, "large enough to scan");
        let mut rows = Vec::new();
        let mut packed = flate2::read::ZlibDecoder::new(&*chunks[1].1);
        packed.read_to_end(&mut rows).unwrap();
        let stride = 1 + side.div_ceil(8);
        assert_eq!(rows.len(), stride * side);
        let white = |x: usize, y: usize| rows[y * stride + 1 + x / 8] >> (7 - x % 8) & 1 == 1;
        let colors = code.to_colors();
        for y in 0..code.width() {
            for x in 0..code.width() {
                let middle = |m: usize| (m + QUIET) * scale + scale / 2;
                let dark = colors[y * code.width() + x] == Color::Dark;
                assert_eq!(white(middle(x), middle(y)), !dark, "{x},{y}");
            }
        }
        assert!(
            (0..side).all(|x| white(x, 0) && white(0, x)),
            "the edge is white"
        );
        assert_eq!(data_url(&"x".repeat(4_000)), None);
    }
}
