// The shapes of SwiftUI that the documentation and examples/ios use, so that they can be type-checked on Linux. Nothing of it does
// anything, and what compiles against it may still be wrong on Apple's systems.

import Foundation

@MainActor public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { return fatalError("a shape") }
}

public protocol Shape: View where Body == Never {}
extension Shape {
    public var body: Never { return fatalError("a shape") }
}

@MainActor @resultBuilder public enum ViewBuilder {
    public static func buildBlock<each Content: View>(_: repeat each Content) -> Group { Group() }
    public static func buildOptional(_: Group?) -> Group { Group() }
    public static func buildEither(first _: Group) -> Group { Group() }
    public static func buildEither(second _: Group) -> Group { Group() }
}

public struct Group: Shape {}

@propertyWrapper @dynamicMemberLookup public struct Binding<Value> {
    public init() {}
    public var wrappedValue: Value {
        get { fatalError("a shape") }
        nonmutating set {}
    }
    public var projectedValue: Binding { self }
    public subscript<Member>(dynamicMember _: WritableKeyPath<Value, Member>) -> Binding<Member> { Binding<Member>() }
}

@propertyWrapper public struct State<Value> {
    public init(wrappedValue _: Value) {}
    public var wrappedValue: Value {
        get { fatalError("a shape") }
        nonmutating set {}
    }
    public var projectedValue: Binding<Value> { Binding() }
}

public struct DismissAction { public func callAsFunction() {} }
public struct EnvironmentValues { public var dismiss: DismissAction { DismissAction() } }
@propertyWrapper public struct Environment<Value> {
    public init(_: KeyPath<EnvironmentValues, Value>) {}
    public var wrappedValue: Value { fatalError("a shape") }
}

/// A text with places, of which one may be a date as people say it.
public struct LocalizedStringKey: ExpressibleByStringInterpolation {
    public struct RelativeStyle {
        public enum Presentation { case named, numeric }
        public static func relative(presentation _: Presentation) -> RelativeStyle { RelativeStyle() }
    }
    public struct StringInterpolation: StringInterpolationProtocol {
        public init(literalCapacity _: Int, interpolationCount _: Int) {}
        public mutating func appendLiteral(_: String) {}
        public mutating func appendInterpolation(_: Date, format _: RelativeStyle) {}
    }
    public init(stringLiteral _: String) {}
    public init(stringInterpolation _: StringInterpolation) {}
}

public struct Text: Shape {
    @_disfavoredOverload public init(_: some StringProtocol) {}
    public init(_: LocalizedStringKey) {}
}
public struct ForEach: Shape {
    public init<Data: RandomAccessCollection>(_: Data, @ViewBuilder content _: (Data.Element) -> some View) where Data.Element: Identifiable {}
}
public struct Spacer: Shape { public init() {} }
public struct ProgressView: Shape {
    public init() {}
    public init(value _: Double?) {}
}
public struct TextField: Shape { public init(_: String, text _: Binding<String>) {} }
public struct Button: Shape {
    public init(_: String, action _: @escaping @MainActor () -> Void) {}
    public init(_: String, systemImage _: String, action _: @escaping @MainActor () -> Void) {}
}
public struct List: Shape {
    public init<Data: RandomAccessCollection, ID: Hashable>(_: Data, id _: KeyPath<Data.Element, ID>, @ViewBuilder row _: (Data.Element) -> some View)
    {}
}
public struct VStack: Shape { public init(@ViewBuilder _: () -> some View) {} }
public struct HStack: Shape { public init(@ViewBuilder _: () -> some View) {} }
public struct NavigationStack: Shape { public init(@ViewBuilder _: () -> some View) {} }

extension View {
    public func sheet<Item: Identifiable>(item _: Binding<Item?>, @ViewBuilder content _: @escaping (Item) -> some View) -> some View { Group() }
    public func task(_: @escaping @MainActor @Sendable () async -> Void) -> some View { Group() }
    public func onAppear(perform _: @escaping () -> Void) -> some View { Group() }
    public func onSubmit(_: @escaping () -> Void) -> some View { Group() }
    public func disabled(_: Bool) -> some View { Group() }
    public func padding() -> some View { Group() }
    public func navigationTitle(_: String) -> some View { Group() }
    public func foregroundStyle(_: Color) -> some View { Group() }
}

public enum Color { case red, primary, secondary }

@MainActor public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}
@MainActor public protocol Scene {}
extension App { public static func main() {} }
public struct WindowGroup: Scene { public init(@ViewBuilder _: () -> some View) {} }
