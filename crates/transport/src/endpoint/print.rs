//! Printing an endpoint with or without its secrets.

use std::fmt;

use super::{Address, Content, Endpoint, argv, percent, pipe, redact};

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Exact(self, Secrets::LeftOut))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", Endpoint::new(self.clone()))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Secrets {
    Included,
    LeftOut,
}

/// The text of an endpoint, with or without its secrets.
pub(super) struct Exact<'a>(pub(super) &'a Endpoint, pub(super) Secrets);

impl fmt::Display for Exact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(endpoint, secrets) = self;
        match endpoint.content {
            Content::Session | Content::SessionFrames => f.write_str("resume+")?,
            Content::Messages(Some(framing)) => write!(f, "{framing}+")?,
            Content::Messages(None) => {}
        }
        write!(f, "{}:", endpoint.scheme())?;
        match (&endpoint.address, secrets) {
            // A path that begins with `@` would parse as an abstract name.
            (Address::Unix(path), _) if path.as_encoded_bytes().starts_with(b"@") => {
                f.write_str("%40")?;
                percent::write(f, path.as_encoded_bytes().get(1..).unwrap_or_default())
            }
            (Address::Unix(path), _) => percent::write(f, path.as_encoded_bytes()),
            (Address::UnixAbstract(name), _) => {
                f.write_str("@")?;
                percent::write(f, name.as_encoded_bytes())
            }
            (Address::Pipe(name), _) => pipe::write(f, name),
            (Address::Exec(argv), Secrets::Included) => argv::write(f, argv),
            (Address::Exec(argv), Secrets::LeftOut) => argv::write(f, &redact::argv(argv)),
            (Address::Stdio, _) => Ok(()),
            (Address::Tcp { host, port }, _) if host.contains(':') => write!(f, "[{host}]:{port}"),
            (Address::Tcp { host, port }, _) => write!(f, "{host}:{port}"),
            (Address::Memory(name), _) => f.write_str(name),
            (Address::Other { rest, .. }, Secrets::Included) => f.write_str(rest),
            (Address::Other { rest, .. }, Secrets::LeftOut) => f.write_str(&redact::url(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use proptest::prelude::*;
    use tieline_proto::FramingKind;

    use super::*;

    fn any_address() -> impl Strategy<Value = Address> {
        let name = "[ -~é\\t]{1,12}";
        prop_oneof![
            name.prop_map(|path| Address::Unix(path.into())),
            name.prop_map(|name| Address::UnixAbstract(name.into())),
            name.prop_map(Address::Pipe),
            ("[a-zé\\[\"' \\\\]{1,8}", proptest::collection::vec("[ -~é\\n\\t]{0,8}", 0..4))
                .prop_map(|(program, args)| {
                    Address::Exec(
                        std::iter::once(program).chain(args).map(OsString::from).collect(),
                    )
                }),
            Just(Address::Stdio),
            ("[a-z0-9.-]{1,9}|::1|fe80::2", any::<u16>())
                .prop_map(|(host, port)| Address::Tcp { host, port }),
            "[ -~]{1,12}".prop_map(Address::Memory),
            ("x-[a-z0-9.-]{0,6}", "[ -~]{0,12}")
                .prop_map(|(scheme, rest)| Address::Other { scheme, rest }),
        ]
    }

    fn any_framing() -> impl Strategy<Value = Option<FramingKind>> {
        proptest::option::of(proptest::sample::select(FramingKind::ALL.to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn printing_and_parsing_are_inverse(
            address in any_address(),
            framing in any_framing(),
            resumes in any::<bool>(),
        ) {
            let content = if resumes { Content::Session } else { Content::Messages(framing) };
            let endpoint = Endpoint { content, address };
            let text = endpoint.exact().to_string();
            prop_assert_eq!(text.parse::<Endpoint>().unwrap(), endpoint, "{}", text);
        }

        #[test]
        fn parsed_text_prints_as_the_same_endpoint(text in "(lines\\+|resume\\+)?(unix|pipe|exec|mem|a):[ -~é]{0,16}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.exact().to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn path_of_arbitrary_bytes_round_trips() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec((1..=255).collect());
        let endpoint = Endpoint::unix(path);
        assert_eq!(endpoint.exact().to_string().parse::<Endpoint>().unwrap(), endpoint);
    }
}
