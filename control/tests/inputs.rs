//! Text from outside never panics: noise, and good input with something changed.

mod property;

use property::samples::{CONFIGURATION, FILTERS, LISTS, REQUESTS, SCRAPES};
use proptest::prelude::*;

/// The text with some bytes overwritten and cut off somewhere.
fn changed(
    text: impl AsRef<[u8]>,
    changes: &[(prop::sample::Index, u8)],
    cut: prop::sample::Index,
) -> Vec<u8> {
    let mut bytes = text.as_ref().to_vec();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if cut.index(4) == 0 {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        property::request(&bytes);
        property::scrape(&bytes);
        property::filter::filter(&String::from_utf8_lossy(&bytes));
        property::configuration(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn changed_requests(which in 0..REQUESTS.len(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), cut: prop::sample::Index) {
        property::request(&changed(REQUESTS[which], &changes, cut));
    }

    #[test]
    fn changed_configurations(changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), cut: prop::sample::Index) {
        property::configuration(&String::from_utf8_lossy(&changed(CONFIGURATION, &changes, cut)));
    }

    #[test]
    fn changed_filters(which in 0..FILTERS.len(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3), cut: prop::sample::Index) {
        property::filter::filter(&String::from_utf8_lossy(&changed(FILTERS[which], &changes, cut)));
    }

    #[test]
    fn netlink_noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        property::netlink::run(&bytes);
    }

    #[test]
    fn changed_netlink(which: prop::sample::Index, changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), cut: prop::sample::Index) {
        let samples = property::netlink::samples();
        property::netlink::run(&changed(&samples[which.index(samples.len())], &changes, cut));
    }

    #[test]
    fn changed_lists(changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), cut: prop::sample::Index) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        property::access_lists(&changed(LISTS, &changes, cut), &dir.path().join("lists.toml"));
    }

    #[test]
    fn changed_scrapes(which in 0..SCRAPES.len(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), cut: prop::sample::Index) {
        property::scrape(&changed(SCRAPES[which], &changes, cut));
    }
}

#[test]
fn the_unchanged_inputs_are_good() {
    property::netlink::samples()
        .iter()
        .for_each(|input| property::netlink::run(input));
    control::config::parse(CONFIGURATION, std::path::Path::new("/etc/margay")).expect("a good configuration");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("lists.toml");
    std::fs::write(&file, LISTS).expect("the file can be written");
    let report = control::acl::check_files(&[file]);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    for filter in FILTERS {
        control::filter::parse(filter).expect("a good filter");
        property::filter::filter(filter);
    }
    for request in &REQUESTS[..5] {
        control::socket::parse_request(request.as_bytes()).expect("a good request");
    }
}
