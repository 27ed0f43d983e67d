//! The digest of a manifest, which of a signed schema 1 document is that of its payload: the bytes without the
//! signatures that a registry adds (distribution, "Image Manifest V 2, Schema 1", "Signed Manifests").

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::Digest;

/// Bytes of a signed document at most; larger ones are not searched for signatures.
const SIGNED_BYTES_MAX: usize = 1024 * 1024;

/// The digest that a registry names a manifest by.
pub fn manifest_digest(bytes: &[u8]) -> Digest {
    payload(bytes).map_or_else(|| Digest::of(bytes), |payload| Digest::of(&payload))
}

/// Whether `bytes` are the manifest `digest`.
pub fn is_manifest_of(bytes: &[u8], digest: &Digest) -> bool {
    digest.is_of(bytes) || payload(bytes).is_some_and(|payload| digest.is_of(&payload))
}

#[derive(Deserialize)]
struct Signed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// What the signatures of a schema 1 document sign: its first bytes up to before the signatures, and its end.
fn payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let is_signed =
        bytes.len() <= SIGNED_BYTES_MAX && bytes.windows(SIGNATURES.len()).any(|window| window == SIGNATURES);
    if !is_signed {
        return None;
    }
    let signed: Signed = serde_json::from_slice(bytes).ok()?;
    let protected = URL_SAFE_NO_PAD.decode(&signed.signatures.first()?.protected).ok()?;
    let Protected { format_length, format_tail } = serde_json::from_slice(&protected).ok()?;
    let mut payload = bytes.get(..format_length)?.to_vec();
    payload.extend(URL_SAFE_NO_PAD.decode(format_tail).ok()?);
    Some(payload)
}

const SIGNATURES: &[u8] = b"\"signatures\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_schema_1_document_is_named_by_what_was_signed() {
        let payload = "{\n   \"schemaVersion\": 1,\n   \"fsLayers\": []\n}";
        let (start, end) = payload.split_at(payload.len() - 2);
        let protected = format!(
            r#"{{"formatLength":{},"formatTail":"{}","time":"2015-01-01T00:00:00Z"}}"#,
            start.len(),
            URL_SAFE_NO_PAD.encode(end)
        );
        let protected = URL_SAFE_NO_PAD.encode(protected);
        let signed = format!("{start},\n   \"signatures\": [{{\"protected\": \"{protected}\"}}]{end}");
        let digest = Digest::of(payload.as_bytes());
        assert_eq!(manifest_digest(signed.as_bytes()), digest);
        assert!(is_manifest_of(signed.as_bytes(), &digest) && is_manifest_of(payload.as_bytes(), &digest));
        let other = signed.replacen("fsLayers", "FsLayers", 1);
        assert!(!is_manifest_of(other.as_bytes(), &digest), "what is signed was changed");
        assert_eq!(manifest_digest(payload.as_bytes()), digest);
        for odd in ["", "\"signatures\"", r#"{"signatures":[]}"#, r#"{"signatures":[{"protected":"!"}]}"#] {
            assert_eq!(manifest_digest(odd.as_bytes()), Digest::of(odd.as_bytes()), "{odd}");
        }
    }
}
