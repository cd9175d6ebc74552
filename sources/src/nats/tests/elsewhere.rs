//! A server on another machine must offer TLS, unless the deployment says that it need not.

use super::*;

#[tokio::test]
async fn a_server_elsewhere_needs_tls() {
    let server = NatsServer::start();
    Stream::create(&server, json!({})).await.publish(0, 3).await;
    // This machine under an address that does not say so.
    let elsewhere = server.url().replace("127.0.0.1", "0.0.0.0");
    let refused = source(&elsewhere, "", Until::Final).open(None).await.unwrap_err();
    assert_eq!(refused.remedy, Remedy::Stop, "{refused}");
    assert!(refused.help.as_deref().is_some_and(|help| help.contains("insecure")), "{refused}");
    let mut insecure = source(&elsewhere, "insecure = true", Until::Final);
    insecure.open(None).await.unwrap();
    assert_eq!(read(&mut insecure, usize::MAX).await.0.len(), 3);
}
