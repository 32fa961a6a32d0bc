//! The key sets of RFC 7517 appendix A, as they stand there: only what is public and for signatures verifies anything.

use super::*;

/// Appendix A.1, A.2 or A.3.
fn appendix(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("rfc7517.json")).unwrap();
    all[name].clone()
}

fn read(set: &Value) -> Vec<PublicKey> {
    read_set(set.to_string().as_bytes()).unwrap()
}

#[test]
fn of_the_public_keys_of_rfc_7517_the_one_for_signatures_is_read() {
    let set = appendix("A.1");
    let read_keys = read(&set);
    let told: Vec<_> = read_keys
        .iter()
        .map(|key| (key.kid(), key.algorithm()))
        .collect();
    assert_eq!(
        told,
        [(Some("2011-04-29"), Algorithm::Rs256)],
        "the other is for encryption"
    );
    // That is its one fault.
    let other = without(set["keys"][0].clone(), "use");
    assert_eq!(
        PublicKey::from_jwk(&other).unwrap().algorithm(),
        Algorithm::Es256
    );
    for of_another_use in ["enc", "SIG", "", "sig "] {
        assert_eq!(
            read(&json!({"keys": [with(other.clone(), "use", json!(of_another_use))]})),
            []
        );
    }
}

#[test]
fn of_the_private_and_the_symmetric_keys_of_rfc_7517_none_is() {
    for name in ["A.2", "A.3"] {
        let set = appendix(name);
        assert_eq!(set["keys"].as_array().unwrap().len(), 2);
        assert_eq!(read(&set), [], "{name}");
    }
    // Not for their use or their algorithm: a private member alone is enough.
    for jwk in appendix("A.2")["keys"].as_array().unwrap() {
        let plain = without(without(jwk.clone(), "use"), "alg");
        assert_eq!(
            PublicKey::from_jwk(&plain).unwrap_err(),
            "a private or symmetric key"
        );
        let public = ["d", "p", "q", "dp", "dq", "qi"]
            .iter()
            .fold(plain, |jwk, member| without(jwk, member));
        assert!(PublicKey::from_jwk(&public).is_ok());
    }
    for jwk in appendix("A.3")["keys"].as_array().unwrap() {
        for claimed in ["HS256", "ES256", "RS256"] {
            let as_a_key_for_tokens = with(
                with(jwk.clone(), "alg", json!(claimed)),
                "use",
                json!("sig"),
            );
            assert!(PublicKey::from_jwk(&as_a_key_for_tokens).is_err());
        }
    }
}

#[test]
fn a_key_that_nobody_knows_spoils_none_beside_it() {
    let public = appendix("A.1");
    let unknown = json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "2011-04-29"});
    let keys = [
        unknown,
        appendix("A.3")["keys"][1].clone(),
        appendix("A.2")["keys"][1].clone(),
        public["keys"][1].clone(),
    ];
    assert_eq!(read(&json!({"keys": keys})), read(&public));
}
