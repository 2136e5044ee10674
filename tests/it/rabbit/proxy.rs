//! The proxy stalls, cuts and refuses, and otherwise changes nothing.

use std::io::ErrorKind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use worker_tests::{
    eventually::{eventually, soon},
    rabbit::{Direction, Proxy},
};

/// A server behind a proxy.
async fn server() -> (Proxy, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (Proxy::start(listener.local_addr().unwrap().port()).await, listener)
}

/// A connection through the proxy: the client's end and the server's.
async fn connected(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let (server, _) = soon("it was forwarded", listener.accept()).await.unwrap();
    (client, server)
}

/// Says a word at one end, and waits until it is heard at the other.
async fn says(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"word").await.unwrap();
    hears(to).await;
}

async fn hears(end: &mut TcpStream) {
    let mut heard = [0; 4];
    soon("the word was heard", end.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"word");
}

#[tokio::test]
async fn a_stalled_direction_holds_what_it_hears_and_the_other_flows() {
    let (proxy, listener) = server().await;
    let (mut client, mut server) = connected(&proxy, &listener).await;
    proxy.stall(Direction::ToClient);
    server.write_all(b"word").await.unwrap();
    // A round trip in the other direction, with which the word would have come.
    says(&mut client, &mut server).await;
    says(&mut client, &mut server).await;
    assert_eq!(client.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.resume(Direction::ToClient);
    hears(&mut client).await;
    proxy.stall(Direction::ToNode);
    says(&mut server, &mut client).await;
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_cut_is_a_reset_for_both_sides_and_new_connections_are_accepted() {
    let (proxy, listener) = server().await;
    let (mut client, mut server) = connected(&proxy, &listener).await;
    says(&mut client, &mut server).await;
    proxy.cut().await;
    for end in [&mut client, &mut server] {
        let error = soon("it was cut", end.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.connections(), 0);
    let (mut client, mut server) = connected(&proxy, &listener).await;
    says(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_refusing_proxy_lets_nobody_in_until_it_accepts_again() {
    let (proxy, listener) = server().await;
    let (mut client, mut server) = connected(&proxy, &listener).await;
    proxy.refuse().await;
    let error = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    says(&mut client, &mut server).await;
    proxy.accept().await;
    let (mut client, mut server) = connected(&proxy, &listener).await;
    says(&mut client, &mut server).await;
}

#[tokio::test]
async fn an_end_of_one_side_is_an_end_for_the_other_after_what_it_said() {
    let (proxy, listener) = server().await;
    let (mut client, mut server) = connected(&proxy, &listener).await;
    client.write_all(b"word").await.unwrap();
    client.shutdown().await.unwrap();
    hears(&mut server).await;
    assert_eq!(soon("its end was heard", server.read(&mut [0])).await.unwrap(), 0);
    says(&mut server, &mut client).await;
    drop(server);
    eventually("the proxy has forgotten them", async || (proxy.connections() == 0).then_some(())).await;
}
