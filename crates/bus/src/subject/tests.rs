use super::*;

#[test]
fn errors_say_what_is_wrong_and_what_to_write() {
    let long = "a".repeat(256);
    for (text, is_pattern, expected) in [
        ("", false, "the subject is empty. Write tokens joined by dots, such as files.changed"),
        (&long, false, "it has 256 bytes. Use at most 255"),
        (&vec!["a"; 17].join("."), false, "it has 17 tokens. Use at most 16"),
        (".a", false, "token 1 is empty"),
        ("a.", true, "token 2 is empty. Write one dot between two tokens, and none at the ends"),
        ("a..b", false, "token 2 is empty"),
        (
            "a.tools/call",
            false,
            "token 2 contains '/', and tokens consist of A-Z, a-z, 0-9, _ and -. Encode it as x-orxw63dtf5rwc3dm",
        ),
        ("a b", false, "token 1 contains ' '"),
        ("a.\u{1b}[31m", false, "token 2 contains '\\u001b'"),
        ("größe", false, "token 1 contains 'ö'"),
        ("$SYS.a", false, "token 1 contains '$'"),
        ("a.*", false, "token 2 is a wildcard"),
        (
            "a.>",
            false,
            "token 2 is a wildcard. Wildcards are for subscriptions; publish to a subject without them",
        ),
        ("a.b*", false, "token 2 contains '*'"),
        ("a.b*", true, "a wildcard must be a whole token. Write * or > for token 2"),
        ("a.>.b", true, "token 2 is >, which must be the last token. Write * to match one token"),
    ] {
        let error = match is_pattern {
            true => Pattern::new(text).unwrap_err(),
            false => Subject::new(text).unwrap_err(),
        };
        let error = error.to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(!error.contains('\u{1b}') && error.len() < 600, "{error}");
    }
}

#[test]
fn largest_subjects_are_accepted() {
    assert!(Subject::new(&"a".repeat(255)).is_ok());
    assert!(Subject::new(&["a"; 16].join(".")).is_ok());
    assert!(Pattern::new(&["*"; 16].join(".")).is_ok());
}

#[test]
fn names_are_encoded_and_decoded() {
    // The encodings are those of RFC 4648, section 10, in lower case and without padding.
    for (name, token) in [
        ("", "x-"),
        ("f ", "x-myqa"),
        ("foo:", "x-mzxw6oq"),
        ("foo b", "x-mzxw6idc"),
        ("foo/ba", "x-mzxw6l3cme"),
        ("x-ray", "x-pawxeylz"),
        ("x-", "x-pawq"),
        ("plain_name-2", "plain_name-2"),
        ("größe", "x-m5zmhnwdt5sq"),
    ] {
        assert_eq!(encode_token(name), token);
        assert_eq!(decode_token(token).as_deref(), Some(name));
        assert!(Subject::new(token).is_ok());
    }
    for not_encoded in ["x-A", "x-1", "x-a", "x-aaaaaaaaa", "x-74", "x-mf"] {
        assert_eq!(decode_token(not_encoded), None, "{not_encoded}");
    }
}

#[test]
fn patterns_match_and_cover() {
    for (pattern, matched, other) in [
        ("a.b", "a.b", "a.c"),
        ("a.*", "a.b", "a"),
        ("a.*", "a.b", "a.b.c"),
        ("*", "a", "a.b"),
        ("a.>", "a.b.c", "a"),
        (">", "a", "tl.svc"),
        (">", "a.b", "_INBOX.1"),
        ("*.a", "b.a", "tl.a"),
        ("tl.>", "tl.svc.a", "a.b"),
        ("a.*.c", "a.b.c", "a.b.d"),
    ] {
        let it = Pattern::new(pattern).unwrap();
        assert!(it.matches(&Subject::new(matched).unwrap()), "{pattern} {matched}");
        assert!(!it.matches(&Subject::new(other).unwrap()), "{pattern} {other}");
    }
    for (wide, narrow, covers) in [
        (">", "a.>", true),
        (">", ">", true),
        (">", "*", true),
        (">", "tl.>", false),
        ("*.>", "tl.>", false),
        ("tl.>", "tl.*", true),
        ("*", ">", false),
        ("a.*", "a.>", false),
        ("a.>", "a.*.c", true),
        ("a.*", "a.*", true),
        ("a.b", "a.*", false),
    ] {
        let (wide, narrow) = (Pattern::new(wide).unwrap(), Pattern::new(narrow).unwrap());
        assert_eq!(wide.covers(&narrow), covers, "{wide} {narrow}");
    }
}

#[test]
fn inboxes_name_their_request() {
    let of = |text| Subject::new(text).unwrap().inbox_of();
    for number in [0, 7, 10, 12_345, u64::MAX] {
        let inbox = Subject::inbox(number);
        assert_eq!(inbox.as_str(), format!("_INBOX.{number}"));
        assert_eq!(inbox.inbox_of(), Some(Some(number)));
    }
    assert_eq!(
        (of("_INBOX"), of("_INBOX.a"), of("_INBOX.1.2")),
        (Some(None), Some(None), Some(None))
    );
    assert_eq!((of("_INBOXES.1"), of("a")), (None, None));
}
