//! What the RFCs sign with algorithms that no project has: well signed each, and refused for its algorithm.

use super::*;
use crate::auth::key::PublicKey;

#[tokio::test]
async fn what_the_rfcs_sign_with_other_algorithms_or_none_is_refused() {
    let project = Project::new().await;
    let examples: Vec<Value> = serde_json::from_str(include_str!("rfcs.json")).unwrap();
    let keys: Vec<&Value> = examples
        .iter()
        .map(|example| &example["jwk"])
        .filter(|jwk| !jwk.is_null())
        .collect();
    project.server.say(200, json!({"keys": keys}).to_string());
    for example in &examples {
        let (of, token) = (
            example["of"].as_str().unwrap(),
            example["token"].as_str().unwrap(),
        );
        let told = Parts::split(token).err().unwrap_or("it is taken");
        assert_eq!(
            told, "The token's alg is not HS256, ES256, RS256 or EdDSA.",
            "{of}"
        );
        assert_eq!(project.code(token).await, Code::InvalidToken, "{of}");
        // Nor under a key of its own with another name for the algorithm.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (_, payload) = message.split_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        if let Ok(key) = PublicKey::from_jwk(&example["jwk"]) {
            assert_eq!(
                example["alg"], "PS384",
                "{of}: of these keys only RSA's is one that we know"
            );
            assert!(!key.verifies(message.as_bytes(), &signature), "{of}");
        }
        for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
            let renamed = format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(&signature));
            assert_eq!(
                project.code(&renamed).await,
                Code::InvalidToken,
                "{of} as {alg}"
            );
        }
    }
}
