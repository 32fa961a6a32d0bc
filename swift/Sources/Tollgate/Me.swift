import Foundation

/// The user, the plan and what is left of it: made for a paywall.
public struct Me: Decodable, Sendable, Hashable {
    public let user: User
    public let plan: Plan
    public let limits: [Limit]
    public let models: [String]
    public let maxOutputTokens: Int
    public let credits: Credits?
    public let purchase: Purchase?
    public let device: Device?

    public struct User: Decodable, Sendable, Hashable {
        /// Give it to StoreKit as `appAccountToken`.
        public let id: UUID
        public let email: String?
        public let isAnonymous: Bool
    }

    public struct Plan: Decodable, Sendable, Hashable {
        public let name: String
        /// Who says so: `database`, `claim`, `local`, `purchase` or `default`.
        public let source: String
        public let periodEndsAt: Date?
    }

    public struct Credits: Decodable, Sendable, Hashable {
        /// In US dollars.
        public let remaining: Amount
        public let held: Amount
        public let nextExpiry: Date?
    }

    public struct Purchase: Decodable, Sendable, Hashable {
        public let product: String
        public let store: String
        public let expiresAt: Date?
        public let willRenew: Bool?
    }

    public struct Device: Decodable, Sendable, Hashable {
        public let attested: Bool
    }

    /// The limit that is nearest to its end: the bar to draw.
    public var tightest: Limit? {
        limits.max { ($0.fraction ?? 0) < ($1.fraction ?? 0) }
    }
}

/// A limit of a plan, in `me()` and in errors.
public struct Limit: Decodable, Sendable, Hashable {
    /// `minute`, `hour`, `day`, `month`, `period` or `lifetime`.
    public let per: String
    /// `requests`, `tokens`, `cost_usd`, `images`, `audio_seconds` or `characters`.
    public let unit: String
    /// The name of the plan that it counts; nil where it counts all.
    public let model: String?
    public let limit: Amount
    public let used: Amount
    public let held: Amount
    /// Nil in an error, which has `requested` instead.
    public let remaining: Amount?
    public let requested: Amount?
    /// Nil where it never resets.
    public let resetsAt: Date?

    /// How much of it is taken, from 0 to 1.
    public var fraction: Double? {
        guard limit.value > 0 else { return nil }
        let taken = NSDecimalNumber(decimal: (used.value + held.value) / limit.value).doubleValue
        return min(max(taken, 0), 1)
    }
}

/// A number that counts, or money in US dollars: exact in both cases.
public struct Amount: Decodable, Sendable, Hashable, CustomStringConvertible {
    public let value: Decimal

    public init(_ value: Decimal) { self.value = value }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let text = try? container.decode(String.self), let money = Decimal(string: text, locale: Locale(identifier: "en_US_POSIX")) {
            value = money
        } else {
            value = Decimal(try container.decode(Int64.self))
        }
    }

    public var description: String { "\(value)" }
}

/// A day's usage of one model.
public struct UsageRow: Decodable, Sendable, Hashable {
    /// `2026-11-24`, in the server's time zone.
    public let day: String
    public let model: String
    public let requests: Int
    public let inputTokens: Int
    public let cachedInputTokens: Int
    public let outputTokens: Int
    public let costUsd: Amount
}
