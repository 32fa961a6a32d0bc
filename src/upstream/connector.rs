//! The way to an upstream: to itself or through a proxy, with the authorities that it may prove itself by.
//!
//! It knows sockets and TLS, and nothing of requests. Invariant: the connection, a proxy's answer and the handshake are one
//! wait of the connector's, which its owner bounds; a proxy's password is in no error.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower::Service;

use super::BoxError;
use crate::config::{ProxyServer, UpstreamConfig};

/// After so long a silence the kernel asks whether the other side is still there.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// TLS over a way.
pub(super) type Https = HttpsConnector<MaybeProxy>;

/// What upstreams have in common that share connections.
#[derive(Clone, PartialEq)]
pub(super) struct PoolKey {
    keep_alive: Duration,
    proxy: Option<Arc<ProxyServer>>,
    authorities: Option<Arc<[CertificateDer<'static>]>>,
}

impl PoolKey {
    pub(super) fn of(to: &UpstreamConfig) -> Self {
        let UpstreamConfig {
            keep_alive,
            proxy,
            authorities,
            ..
        } = to;
        Self {
            keep_alive: *keep_alive,
            proxy: proxy.clone(),
            authorities: authorities.clone(),
        }
    }

    pub(super) fn is_of(&self, to: &UpstreamConfig) -> bool {
        self.keep_alive == to.keep_alive
            && self.proxy == to.proxy
            && self.authorities == to.authorities
    }

    /// Connections over rustls with Mozilla's roots, and those of the settings.
    pub(super) fn connector(&self, connect_timeout: Duration) -> Result<Https, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Nagle with delayed ACK costs 40 ms on the small writes of a request.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.set_keepalive(Some(TCP_KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEP_ALIVE));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls()?)
            .https_or_http()
            .enable_http1();
        Ok(https.wrap_connector(MaybeProxy {
            tcp,
            proxy: self.proxy.clone(),
        }))
    }

    fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for one in self.authorities.iter().flat_map(|some| some.iter()) {
            roots.add(one.clone())?;
        }
        let tls = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?;
        Ok(tls.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Connects to a host, or to the proxy on the way to it.
#[derive(Clone)]
pub(super) struct MaybeProxy {
    tcp: HttpConnector,
    proxy: Option<Arc<ProxyServer>>,
}

impl Service<Uri> for MaybeProxy {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = &self.proxy else {
            let connecting = self.tcp.call(to);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        // Plain http needs no tunnel: the proxy is told the whole address with each request.
        if to.scheme() != Some(&Scheme::HTTPS) {
            let connecting = self.tcp.call(proxy.address.clone());
            return Box::pin(async move { Ok(connecting.await?) });
        }
        let tunnel = Tunnel::new(proxy.address.clone(), self.tcp.clone());
        let mut tunnel = match &proxy.authorization {
            Some(authorization) => tunnel.with_auth(authorization.clone()),
            None => tunnel,
        };
        let connecting = tunnel.call(to);
        Box::pin(async move {
            connecting.await.map_err(|error| {
                tracing::warn!(%error, "the proxy opens no way to the upstream");
                error.into()
            })
        })
    }
}

/// A connector whose whole work is bounded: the name, the connection and the TLS handshake.
///
/// The connector's own timeout covers the connection only.
#[derive(Clone)]
pub(super) struct TimeoutConnector<C> {
    pub(super) inner: C,
    pub(super) limit: Duration,
}

impl<C> Service<Uri> for TimeoutConnector<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move { connecting.await? })
    }
}
