//! The examples as processes, and curl as whoever uses them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    app::Order,
    harness::skip,
    strangers::{Proxy, command, directory, free_port, output, tool},
    support::pattern,
};

/// The example, which `cargo test` builds beside the tests.
fn example(name: &str) -> Option<PathBuf> {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    if !path.is_file() {
        skip(name, "the example is not built: cargo build --examples");
        return None;
    }
    Some(path)
}

const BYTES: usize = 300_001;

/// curl, with the answer's head before its body.
async fn curl(curl: &Path, arguments: &[&str]) -> (String, Vec<u8>) {
    let mut answer = output(command(curl, &[&["-sS", "-i"], arguments].concat())).await;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let body = answer.split_off(head);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

async fn check_file_service(tool: &Path, url: &str) {
    let mut content = vec![0; BYTES];
    pattern::fill(0, &mut content);
    let all = BYTES.to_string();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (head, body) = curl(tool, &[version, url]).await;
        assert!(head.contains(" 200") && field(&head, "accept-ranges") == Some("bytes"), "{head}");
        Order::of(BYTES).check(&body);
        let etag = field(&head, "etag").expect("an etag").to_owned();

        let (head, body) = curl(tool, &[version, "-I", url]).await;
        assert!(head.contains(" 200") && field(&head, "content-length") == Some(&all), "{head}");
        assert!(body.is_empty());

        let last = BYTES - 1;
        for (asked, from, to) in [
            ("0-99", 0, 99),
            ("1000-200000", 1000, 200_000),
            ("-500", BYTES - 500, last),
            ("300000-", 300_000, last),
            ("299990-999999", 299_990, last),
        ] {
            let (head, body) = curl(tool, &[version, "-r", asked, url]).await;
            assert!(head.contains(" 206"), "{asked}: {head}");
            assert_eq!(field(&head, "content-range"), Some(format!("bytes {from}-{to}/{BYTES}").as_str()), "{asked}");
            assert!(body == content[from..=to], "{asked}: wrong bytes");
        }
        // As after a download that broke off.
        let (head, body) = curl(tool, &[version, "-C", "250000", url]).await;
        assert!(head.contains(" 206") && body == content[250_000..], "{head}");

        let (head, body) = curl(tool, &[version, "-r", "400000-", url]).await;
        assert!(head.contains(" 416") && body.is_empty(), "{head}");
        assert_eq!(field(&head, "content-range"), Some(format!("bytes */{BYTES}").as_str()));

        for (version_of_it, status) in [(etag.as_str(), " 206"), ("\"another\"", " 200")] {
            let condition = format!("If-Range: {version_of_it}");
            let (head, _) = curl(tool, &[version, "-H", &condition, "-r", "0-9", url]).await;
            assert!(head.contains(status), "{condition}: {head}");
        }
        for other in ["missing", "..%2Ffile", "%2Fetc%2Fpasswd"] {
            let other = format!("{}/{other}", url.trim_end_matches("/file"));
            let (head, _) = curl(tool, &[version, "--path-as-is", &other]).await;
            assert!(head.contains(" 404"), "{other}: {head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_service_answers_range_and_head() {
    let (Some(curl), Some(example)) = (tool("axum_ring", "curl"), example("axum_ring")) else { return };
    let (directory, address) = (directory("axum_ring"), free_port());
    let mut content = vec![0; BYTES];
    pattern::fill(0, &mut content);
    fs::write(directory.join("file"), content).unwrap();
    let mut command = Command::new(example);
    command.arg(&directory).arg(address.to_string());
    let service = Proxy::start(&directory, command, address).await;
    let ways: &[&str] = if cfg!(zerosink_linux) { &["ring", "region"] } else { &["ring"] };
    for way in ways {
        check_file_service(&curl, &format!("http://{address}/{way}/file")).await;
    }
    drop(service);
}

#[tokio::test]
async fn the_app_as_it_is_has_an_owner_for_every_large_byte() {
    let Some(example) = example("tower_layer") else { return };
    let mut command = Command::new(example);
    command.stderr(Stdio::inherit());
    let said = String::from_utf8(output(command).await).unwrap();
    for (path, owned) in [("/made", 1_300_000), ("/cached", 4_000_000), ("/small", 0)] {
        let line = said.lines().find(|line| line.starts_with(path)).unwrap_or_else(|| panic!("{path}: {said}"));
        assert!(line.contains(&format!(" {owned} of them have an owner")), "{line}");
    }
    assert_eq!(said.lines().count(), 3, "{said}");
}
