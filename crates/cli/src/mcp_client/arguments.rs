//! The arguments of a tool or a prompt, from the command line.

use serde_json::{Map, Value};
use tieline_proto::ByteSize;

use super::server::Server;
use super::shown::at;
use crate::report::Failure;
use crate::stdin::read_stdin;

pub(super) enum Arguments {
    /// A JSON object.
    Whole(Map<String, Value>),
    /// Names and values.
    Pairs(Vec<(String, String)>),
}

impl Arguments {
    /// Reads the words of the command line.
    pub(super) async fn read(words: &[String], limit: ByteSize) -> Result<Self, Failure> {
        match words {
            [word] if word == "-" => {
                let text = read_stdin(limit).await?;
                if text.len() > limit.bytes() {
                    return Err(Failure::other(format!(
                        "the arguments are larger than --max-message ({limit})"
                    )));
                }
                Self::object(&text)
            }
            [word] if word.trim_start().starts_with('{') => Self::object(word.as_bytes()),
            words => words.iter().map(|word| pair(word)).collect::<Result<_, _>>().map(Self::Pairs),
        }
    }

    fn object(text: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(text).map(Self::Whole).map_err(|error| {
            Failure::Usage(format!(
                "the arguments are not a JSON object: {error}. Write, for example, '{{\"a\":1}}' or a=1"
            ))
        })
    }

    /// Returns the arguments of a prompt, all of which are strings.
    pub(super) fn strings(self) -> Map<String, Value> {
        match self {
            Self::Whole(object) => object,
            Self::Pairs(pairs) => {
                pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
            }
        }
    }

    /// Returns the arguments of a tool. Which values are strings is in its schema.
    pub(super) async fn for_tool(
        self,
        server: &Server<'_>,
        tool: &str,
    ) -> Result<Map<String, Value>, Failure> {
        let pairs = match self {
            Self::Whole(object) => return Ok(object),
            Self::Pairs(pairs) if pairs.is_empty() => return Ok(Map::new()),
            Self::Pairs(pairs) => pairs,
        };
        let tools = server.list("tools/list", "tools").await?;
        let tools = tools.iter().filter_map(|it| serde_json::from_slice::<Value>(it).ok());
        let tool = tools.into_iter().find(|it| at(it, "name") == tool).unwrap_or_default();
        let properties = at(at(&tool, "inputSchema"), "properties");
        let is_string = |name: &str| at(at(properties, name), "type") == "string";
        let value = |(name, text): (String, String)| {
            let value = match is_string(&name) {
                true => Value::String(text),
                false => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            };
            (name, value)
        };
        Ok(pairs.into_iter().map(value).collect())
    }
}

fn pair(word: &str) -> Result<(String, String), Failure> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!(
            "`{word}` is not an argument; write NAME=VALUE, or one JSON object for all"
        ))),
    }
}
