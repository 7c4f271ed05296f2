//! Another implementation of the encryption reads what is sealed here, and what it seals is read here
//! (`database.md 8.3`).

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use walcast_tenants::{Cipher, Sealed, Secret};

const ECB_KEY: &str = "supabaserealtime";
const GCM_KEY: &str = "0123456789abcdef0123456789abcdef";

/// Both forms, both directions, with the library of Node: one JSON array of texts in, one out.
const OTHER: &str = r#"
    const { createCipheriv, createDecipheriv, randomBytes } = require('node:crypto');
    const [direction, ecbKey, gcmKey] = process.argv.slice(1);
    const ecb = {
      seal(text) {
        const cipher = createCipheriv('aes-128-ecb', ecbKey, null);
        return Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]).toString('base64');
      },
      open(sealed) {
        const cipher = createDecipheriv('aes-128-ecb', ecbKey, null);
        return Buffer.concat([cipher.update(sealed, 'base64'), cipher.final()]).toString('utf8');
      },
    };
    const gcm = {
      seal(text) {
        const iv = randomBytes(12);
        const cipher = createCipheriv('aes-256-gcm', gcmKey, iv);
        const sealed = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
        return 'g1:' + Buffer.concat([iv, cipher.getAuthTag(), sealed]).toString('base64');
      },
      open(sealed) {
        const bytes = Buffer.from(sealed.slice(3), 'base64');
        const cipher = createDecipheriv('aes-256-gcm', gcmKey, bytes.subarray(0, 12));
        cipher.setAuthTag(bytes.subarray(12, 28));
        return Buffer.concat([cipher.update(bytes.subarray(28)), cipher.final()]).toString('utf8');
      },
    };
    const texts = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
    const done = direction === 'seal'
      ? texts.flatMap((text) => [ecb.seal(text), gcm.seal(text)])
      : texts.map((sealed) => (sealed.startsWith('g1:') ? gcm : ecb).open(sealed));
    process.stdout.write(JSON.stringify(done));
"#;

fn by_the_other(direction: &str, texts: &[String]) -> Vec<String> {
    let mut node = Command::new("node")
        .args(["-e", OTHER, direction, ECB_KEY, GCM_KEY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(texts).unwrap();
    node.stdin.take().unwrap().write_all(&input).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn node_opens_what_is_sealed_here_and_the_other_way_round() {
    let ecb = Cipher::new(ECB_KEY, Some(GCM_KEY), false).unwrap();
    let gcm = Cipher::new(ECB_KEY, Some(GCM_KEY), true).unwrap();
    // Lengths around those of blocks, and any characters.
    let texts = proptest::collection::vec(prop_oneof!["\\PC{0,40}", "[a-z]{15,17}", ".{0,80}"], 1..60);
    let mut runner = TestRunner::new(Config::with_cases(8));
    runner
        .run(&texts, |texts| {
            let sealed: Vec<String> = texts
                .iter()
                .flat_map(|text| [ecb.seal(text), gcm.seal(text)])
                .map(|sealed| sealed.unwrap().as_stored().to_owned())
                .collect();
            let twice: Vec<String> = texts
                .iter()
                .flat_map(|text| [text.clone(), text.clone()])
                .collect();
            prop_assert_eq!(&by_the_other("open", &sealed), &twice);
            for (sealed, text) in by_the_other("seal", &texts).into_iter().zip(twice) {
                let opened = ecb.open(&Sealed::from_stored(sealed));
                prop_assert_eq!(opened, Ok(Secret::new(text)));
            }
            Ok(())
        })
        .unwrap();
}
