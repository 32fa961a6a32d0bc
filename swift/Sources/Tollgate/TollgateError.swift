import Foundation

/// Everything that a call of this package throws, except `CancellationError` and what your token provider throws.
public struct TollgateError: Error, Sendable, Hashable {
    /// The server's code: an open set. `connection_lost` where the network failed.
    public let code: String
    public let message: String
    /// The HTTP status; 0 where there was no answer, 200 for an error in the middle of a stream.
    public let status: Int
    /// The field of the request that is wrong.
    public let param: String?
    /// Which limit is reached, and when it resets.
    public let limit: Limit?
    /// The user's plan, with a limit.
    public let plan: String?
    /// The id of the ledger's row: show it on your support screen.
    public let requestID: String?
    /// How long to wait before the same is sent again.
    public let seconds: Int?
    /// What had come of a stream.
    public internal(set) var partialText: String

    public init(
        code: String, message: String, status: Int = 0, param: String? = nil, limit: Limit? = nil, plan: String? = nil, requestID: String? = nil,
        seconds: Int? = nil, partialText: String = ""
    ) {
        self.code = code
        self.message = message
        self.status = status
        self.param = param
        self.limit = limit
        self.plan = plan
        self.requestID = requestID
        self.seconds = seconds
        self.partialText = partialText
    }

    /// What an app can do. The set is closed: a code that a newer server sends is mapped to one of these.
    public enum Advice: Sendable, Hashable {
        /// Show what `limit` says, and offer another plan.
        case paywall
        /// Send the same again after so many seconds.
        case wait(seconds: Int)
        /// The token is no good even after a refresh.
        case signIn
        /// The user has no account yet.
        case signUp
        /// The user should ask for something shorter, or else.
        case rephrase
        /// The user or the device is locked out; say whom to write to.
        case blocked
        /// The network is gone; the same ticket or key goes on later.
        case connection
        /// Nothing that the app can do now.
        case later
        /// A bug of the app: log `message` and `param`.
        case fault
    }

    public var advice: Advice {
        switch code {
        case "quota_exceeded", "model_not_allowed": .paywall
        case "rate_limited", "too_many_concurrent", "upstream_unavailable", "store_unavailable", "auth_unavailable", "directory_unavailable",
            "overloaded":
            .wait(seconds: seconds ?? 5)
        case "answer_gone": seconds.map { .wait(seconds: $0) } ?? .later
        case "token_expired", "missing_token", "invalid_token": .signIn
        case "anonymous_not_allowed": .signUp
        case "content_flagged", "body_too_large", "context_length_exceeded": .rephrase
        case "user_blocked", "attestation_required", "purchase_taken": .blocked
        case "connection_lost": .connection
        case "invalid_request", "unsupported_field", "not_found", "method_not_allowed", "unsupported_media_type", "headers_too_large",
            "idempotency_key_reused":
            .fault
        default: .later
        }
    }

    static func lost(_ cause: (any Error)? = nil) -> TollgateError {
        let why = cause.map { ": \($0.localizedDescription)" } ?? "."
        return TollgateError(code: "connection_lost", message: "The connection was lost\(why)")
    }

    /// The error in a body or in an event; `otherwise` where there is none in it.
    static func parsed(_ data: Data, otherwise: TollgateError) -> TollgateError {
        struct Body: Decodable {
            struct Said: Decodable {
                let code: String?
                let message: String?
                let param: String?
                let limit: Limit?
                let plan: String?
            }
            let error: Said
        }
        guard let said = try? JSONDecoder.tollgate.decode(Body.self, from: data).error else { return otherwise }
        return TollgateError(
            code: said.code ?? otherwise.code, message: said.message ?? otherwise.message, status: otherwise.status, param: said.param,
            limit: said.limit, plan: said.plan, requestID: otherwise.requestID, seconds: otherwise.seconds)
    }
}

extension TollgateError: LocalizedError {
    public var errorDescription: String? { message }
}

extension TollgateError: Identifiable {
    /// For `.sheet(item:)`.
    public var id: String { requestID ?? code }
}

extension JSONDecoder {
    static var tollgate: JSONDecoder {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        decoder.dateDecodingStrategy = .iso8601
        return decoder
    }
}
