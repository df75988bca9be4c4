//! A plain HTTP/1.1 client that shows what is on the wire.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("set");
        Self { stream: BufReader::new(stream) }
    }

    pub async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.expect("sent");
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
        self.answer(true).await
    }

    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: {length}\r\n\r\n{body}")).await;
        self.answer(true).await
    }

    /// The head of the next answer; interim ones are passed over.
    pub async fn head(&mut self) -> (u16, String) {
        loop {
            let mut head = String::new();
            let reading = async {
                loop {
                    let count = self.stream.read_line(&mut head).await.expect("readable");
                    assert!(count > 0, "the connection ended within a head: {head:?}");
                    if head.ends_with("\r\n\r\n") {
                        return;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
            if status != 100 {
                return (status, head);
            }
        }
    }

    /// The next answer. `has_body`: it is not the answer to HEAD.
    pub async fn answer(&mut self, has_body: bool) -> Answer {
        let (status, head) = self.head().await;
        let has_body = has_body && status != 204 && status != 304;
        let chunked = field(&head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length = field(&head, "content-length").map(|length| length.parse().expect("a number"));
        let reading = async {
            match (has_body, chunked, length) {
                (false, ..) => Vec::new(),
                (true, true, _) => self.chunks().await,
                (true, false, Some(length)) => {
                    let mut body = vec![0; length];
                    self.stream.read_exact(&mut body).await.expect("the whole body");
                    body
                }
                (true, false, None) => {
                    let mut body = Vec::new();
                    self.stream.read_to_end(&mut body).await.expect("the rest");
                    body
                }
            }
        };
        let body = tokio::time::timeout(PATIENCE, reading).await.expect("a body in time");
        Answer { status, head, body }
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.expect("a chunk's length");
            let length = usize::from_str_radix(line.trim(), 16).expect("hexadecimal");
            let begin = body.len();
            body.resize(begin + length, 0);
            self.stream.read_exact(&mut body[begin..]).await.expect("a chunk");
            self.stream.read_line(&mut String::new()).await.expect("its end");
            if length == 0 {
                return body;
            }
        }
    }

    /// All that still comes until the other side ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("an end").expect("readable");
        rest
    }
}

/// One request on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    Client::connect(address).await.get(path).await
}
